//! Regions against a model that knows only pages, and what is worth saying singly.

use std::collections::BTreeSet;

use proptest::prelude::*;

use self::{
    kernel::{Action, Kernel, Operation, reading},
    model::{Model, PAGES, Page, Shape, addr, index},
};
use super::{AddressSpace, Comparison};
use crate::{event::Landmarks, units::Timestamp};

mod doubt;
mod facts;
mod kernel;
mod loading;
mod model;
mod names;

/// Whether the regions of `space` are those of `model`, and what went is retired once.
fn check(space: &AddressSpace, model: &Model) {
    let found = space.live().map(|region| {
        let label = space.label(region);
        (
            (index(region.range.start())..index(region.range.end()), region.id.0),
            (region.born.as_nanos(), region.parent.map(|id| id.0)),
            (label.backing, String::from_utf8_lossy(&label.name).into_owned()),
            (label.perms, region.traits.file_offset(region.range.start())),
            region.traits.is_kept_from_forks(),
        )
    });
    let expected = model.regions().into_iter().map(|run| {
        let page = model.pages[run.start].expect("runs are mapped");
        let id = page.id.expect("every page has a region");
        let label = model.label(&run, &page);
        ((run, id), model.live[&id], label, (page.shape.perms, page.shape.offset()), page.is_kept_from_forks)
    });
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());

    let mut retired: Vec<(u64, u64)> =
        space.retired().iter().map(|retired| (retired.region.id.0, retired.died.as_nanos())).collect();
    retired.sort_unstable();
    let mut expected = model.retired.clone();
    expected.sort_unstable();
    assert_eq!(retired, expected);
}

fn operation() -> impl Strategy<Value = Operation> {
    let actions = [
        (Action::Mmap, 8),
        (Action::Appear, 2),
        (Action::Munmap, 3),
        (Action::Mprotect, 4),
        (Action::Resize, 3),
        (Action::Move, 4),
        (Action::Grow, 3),
        (Action::Keep, 2),
        (Action::Double, 2),
        (Action::Brk, 3),
        (Action::SetName, 2),
        (Action::Advise, 2),
        (Action::Shmat, 2),
        (Action::Shmdt, 1),
        (Action::Fork, 1),
    ];
    let actions: Vec<Action> =
        actions.into_iter().flat_map(|(action, weight)| std::iter::repeat_n(action, weight)).collect();
    let action = prop::sample::select(actions);
    (action, 0..PAGES, 1..9_usize, 0..PAGES, any::<u8>())
        .prop_map(|(action, at, pages, to, choice)| Operation { action, at, pages, to, choice })
}

/// What a reading may show that events did not tell.
fn edit() -> impl Strategy<Value = (usize, usize, Option<Shape>)> {
    let anon = Shape { perms: *b"rw-p", file: None, name: None };
    let shapes = vec![
        None,
        Some(anon),
        Some(Shape { perms: *b"r--p", ..anon }),
        Some(Shape { name: Some("a"), ..anon }),
        Some(Shape { file: Some((model::File::Library, 3)), ..anon }),
    ];
    (0..PAGES, 1..6_usize, prop::sample::select(shapes))
}

/// Compares with a reading that began `back` ns ago and has `edits`, and checks what is made of which pages.
fn contradict(kernel: &mut Kernel, edits: &[(usize, usize, Option<Shape>)], back: u64, is_doubtful: bool) {
    let Kernel { model, space, ids, time, touched, .. } = kernel;
    let is_doubtful = is_doubtful || space.is_doubtful();
    let mut seen = model.pages.clone();
    for (at, pages, shape) in edits {
        for (step, page) in seen.iter_mut().skip(*at).take(*pages).enumerate() {
            let name = |shape: Shape| shape.name.filter(|_| !model.is_heap(at + step));
            *page = shape.map(|shape| Page::new(Shape { name: name(shape), ..shape.further(step) }, false));
        }
    }
    let began = *time + 1 - back;
    let maps = reading(&seen, 2, began);
    if is_doubtful {
        space.doubt(Timestamp::from_nanos(began));
    }

    let comparison = space.compare(Timestamp::from_nanos(*time + 1), &maps, ids);

    let reported = match comparison {
        Comparison::Conclusive(contradictions) if !is_doubtful => {
            let ranges = contradictions.iter().map(|found| found.range);
            ranges.flat_map(|range| index(range.start())..index(range.end())).collect()
        }
        Comparison::Resynchronised if is_doubtful => Vec::new(),
        other => panic!("{other:?} of a space that is doubtful: {is_doubtful}"),
    };
    for page in 0..PAGES {
        let shown = |page: Option<Page>| {
            page.map(|Page { shape, .. }| (shape.perms, shape.offset(), shape.shown_name()))
        };
        let (before, seen) = (shown(model.pages[page]), shown(seen[page]));
        let held = space.find(addr(page)).map(|held| {
            let (_, name) = held.traits.shown(held.range, &Landmarks::default(), None);
            let name = String::from_utf8_lossy(&name).into_owned();
            (held.traits.perms(), held.traits.file_offset(addr(page)), name)
        });
        let is_corrected = before != seen && held == seen;
        if is_corrected {
            assert!(model.changed[page] < began, "page {page} changed meanwhile");
        } else {
            assert_eq!(held, before, "page {page} is not as it was");
            assert!(before == seen || touched[page] >= began, "page {page} should have been corrected");
        }
        let times = reported.iter().filter(|reported| **reported == page).count();
        assert_eq!(times, usize::from(is_corrected && !is_doubtful), "reports of page {page}");
    }
    check_apart(space);
}

/// Whether live regions are in order and apart, and none is retired, nor twice.
fn check_apart(space: &AddressSpace) {
    let live: Vec<_> = space.live().collect();
    for pair in live.windows(2) {
        assert!(pair[0].range.end() <= pair[1].range.start());
        let touch = pair[0].range.end() == pair[1].range.start();
        assert!(!touch || !pair[0].traits.is_like(&pair[1].traits));
    }
    let mut ids: Vec<_> = live.iter().map(|region| region.id).collect();
    ids.extend(space.retired().iter().map(|retired| retired.region.id));
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn regions_are_those_of_a_model_by_page(
        operations in prop::collection::vec(operation(), 1..20),
        cut in 0..5_usize,
    ) {
        let mut kernel = Kernel::new();
        for operation in operations {
            kernel.run(operation);
            check(&kernel.space, &kernel.model);
        }

        let time = kernel.time + 1;
        let maps = reading(&kernel.model.pages, cut, time);
        // Memory that left the heap may have a name.
        let expected =
            if kernel.space.is_doubtful() { Comparison::Resynchronised } else { Comparison::Conclusive(Vec::new()) };
        let comparison = kernel.space.compare(Timestamp::from_nanos(time), &maps, &mut kernel.ids);
        prop_assert_eq!(comparison, expected);
        check(&kernel.space, &kernel.model);

        kernel.die();
        check(&kernel.space, &kernel.model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn reading_corrects_exactly_the_pages_that_differ_and_did_not_change_meanwhile(
        operations in prop::collection::vec(operation().prop_filter("the child is younger than the reading",
            |operation| operation.action != Action::Fork), 4..12),
        edits in prop::collection::vec(edit(), 0..4),
        back in 0..4_u64,
        is_doubtful in any::<bool>(),
    ) {
        let mut kernel = Kernel::new();
        for operation in operations {
            kernel.run(operation);
        }

        contradict(&mut kernel, &edits, back, is_doubtful);
    }
}
