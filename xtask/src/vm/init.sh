#!/bin/busybox sh
# The first process of a guest: makes a file system of what it starts with, runs the tier, and ends.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root TERM=dumb

mount() {
    busybox mkdir -p "$3"
    busybox mount -t "$1" "$2" "$3"
}

busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
mount devpts devpts /dev/pts
mount tmpfs tmpfs /dev/shm
mount tracefs tracefs /sys/kernel/tracing
mount debugfs debugfs /sys/kernel/debug
mount securityfs securityfs /sys/kernel/security
mount cgroup2 cgroup2 /sys/fs/cgroup
# One controller in the old hierarchy: both kinds are tested.
busybox mkdir -p /run/cgroup/pids
busybox mount -t cgroup -o pids cgroup /run/cgroup/pids
busybox ln -sf /proc/self/fd /dev/fd
busybox ln -sf /proc/self/fd/0 /dev/stdin
busybox ln -sf /proc/self/fd/1 /dev/stdout
busybox ln -sf /proc/self/fd/2 /dev/stderr
busybox hostname memtrace
busybox ifconfig lo 127.0.0.1 up

# Only a panic may write between the lines of the tests.
busybox dmesg -n 1
busybox dmesg -c >/dev/null
cd /memtrace && sh tier.sh /memtrace
printf '\nmemtrace-vm: kernel log\n'
busybox dmesg
busybox reboot -f
