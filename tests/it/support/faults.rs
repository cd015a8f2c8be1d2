//! The faults that `verify` finds in a store.

use backscroll::{
    store::Store,
    verify::{self, Fault, Watch},
};

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Watch for Faults {
    fn events(&mut self, _count: u32) {}

    fn fault(&mut self, fault: Fault) {
        self.0.push(fault);
    }
}

pub(crate) fn of(store: &Store) -> Vec<Fault> {
    let mut faults = Faults::default();
    assert!(verify::verify(store, &mut faults).unwrap().is_continue());
    faults.0
}
