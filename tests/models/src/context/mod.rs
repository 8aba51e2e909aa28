pub(crate) mod frame {
    pub(crate) struct Frame;

    impl Frame {
        pub(crate) fn priority(&self) -> Option<super::Priority> {
            None
        }
    }

    pub(crate) fn current<R>(_: impl FnOnce(&Frame) -> R) -> Option<R> {
        None
    }
}

#[path = "../../../../middleware/context/priority.rs"]
mod priority;
pub(crate) use priority::Priority;
