use std::{cell::RefCell, fmt, sync::Arc};

use bytes::Bytes;
use uuid::{Uuid, fmt::Hyphenated};

use crate::context::RequestId;

/// So many ids are made at once: they share one allocation, which lives as long as the last of them.
const BATCH: usize = 32;

/// How ids are made.
#[derive(Clone)]
pub(super) enum Maker {
    UuidV4,
    UuidV7,
    Own(Arc<dyn Fn() -> RequestId + Send + Sync>),
}

impl Maker {
    pub(super) fn make(&self) -> RequestId {
        match self {
            Self::UuidV4 => RequestId::known(uuid_v4()),
            Self::UuidV7 => RequestId::known(Bytes::copy_from_slice(&text_of(Uuid::now_v7()))),
            Self::Own(make) => make(),
        }
    }
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UuidV4 => "UuidV4",
            Self::UuidV7 => "UuidV7",
            Self::Own(_) => "Own",
        })
    }
}

thread_local! {
    /// The rest of the thread's last batch.
    static READY: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

fn uuid_v4() -> Bytes {
    READY.with_borrow_mut(|ready| {
        if ready.is_empty() {
            let mut batch = Vec::with_capacity(BATCH.saturating_mul(Hyphenated::LENGTH));
            for _ in 0..BATCH {
                batch.extend_from_slice(&text_of(Uuid::new_v4()));
            }
            *ready = batch.into();
        }
        ready.split_to(Hyphenated::LENGTH)
    })
}

fn text_of(id: Uuid) -> [u8; Hyphenated::LENGTH] {
    let mut text = [0; Hyphenated::LENGTH];
    id.hyphenated().encode_lower(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_uuids_of_their_version_and_differ_across_batches_and_threads() {
        for (maker, version) in [(Maker::UuidV4, 4), (Maker::UuidV7, 7)] {
            let batches = 0..4;
            let threads: Vec<_> = batches
                .map(|_| {
                    let maker = maker.clone();
                    std::thread::spawn(move || {
                        (0..10 * BATCH).map(|_| maker.make()).collect::<Vec<_>>()
                    })
                })
                .collect();
            let ids: Vec<RequestId> = threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("no panic"))
                .collect();
            for id in &ids {
                assert_eq!(
                    Uuid::parse_str(id.as_str())
                        .expect("a UUID")
                        .get_version_num(),
                    version
                );
            }
            assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        }
    }

    #[test]
    fn ids_of_version_7_sort_by_time() {
        let ids: Vec<String> = (0..1_000)
            .map(|_| Maker::UuidV7.make().to_string())
            .collect();
        assert!(ids.is_sorted());
    }
}
