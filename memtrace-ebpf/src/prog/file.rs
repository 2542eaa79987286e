//! What is behind a descriptor.

use super::{
    config,
    kernel::{self, read_kernel},
};

/// What the kernel knows of a file that decides what its pages are; all 0 if it cannot be read.
#[derive(Clone, Copy, Default)]
pub(crate) struct MappedFile {
    /// Type and permissions.
    pub(crate) mode: u16,
    /// Magic number of its file system.
    pub(crate) magic: u32,
    /// Device of its file system, as the kernel has it.
    pub(crate) device: u32,
}

impl MappedFile {
    /// The file behind `descriptor` of the current task. Another thread may have put another one there since it was mapped;
    /// user space finds that by its device.
    #[inline(always)]
    pub(crate) fn behind(descriptor: u32) -> Self {
        if config!(has_task_layout) == 0 {
            return Self::default();
        }
        let task = kernel::current_task();
        let table: u64 = read_kernel(read_kernel(task, config!(task_files)), config!(files_fdt));
        if descriptor >= read_kernel::<u32>(table, config!(fdt_max_fds)) {
            return Self::default();
        }
        let files: u64 = read_kernel(table, config!(fdt_fd));
        let file = read_kernel(files, u64::from(descriptor) * size_of::<u64>() as u64);
        let inode = read_kernel(file, config!(file_inode));
        let file_system = read_kernel(inode, config!(inode_sb));
        Self {
            mode: read_kernel(inode, config!(inode_mode)),
            magic: read_kernel::<u64>(file_system, config!(sb_magic)) as u32,
            device: read_kernel(file_system, config!(sb_dev)),
        }
    }
}
