//! The orders that the barista knows: a bounded book, each order with someone to tell when it moves on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

use crate::proto::{Order, Stage};

/// The orders by number. When it is full, the oldest order that is ready makes room for a new one.
#[derive(Debug)]
pub(crate) struct OrderBook {
    capacity: usize,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    last_id: u64,
    orders: BTreeMap<u64, watch::Sender<Order>>,
}

/// Why the book takes no order.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("all {0} orders in the book are still being made")]
pub(crate) struct BookFull(usize);

impl OrderBook {
    /// A book for at most `capacity` orders.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            pages: Mutex::default(),
        }
    }

    /// Writes a new order into the book.
    ///
    /// # Errors
    ///
    /// [`BookFull`] if no order can make room.
    pub(crate) fn place(&self, coffee: String) -> Result<Order, BookFull> {
        let mut pages = self.pages();
        if pages.orders.len() >= self.capacity {
            let oldest = pages.oldest_ready().ok_or(BookFull(self.capacity))?;
            pages.orders.remove(&oldest);
        }
        pages.last_id += 1;
        let order = Order {
            id: pages.last_id,
            coffee,
            stage: Stage::Queued.into(),
        };
        let (teller, _) = watch::channel(order.clone());
        pages.orders.insert(order.id, teller);
        Ok(order)
    }

    /// Moves an order on and tells who watches it.
    pub(crate) fn advance(&self, id: u64, stage: Stage) {
        if let Some(teller) = self.pages().orders.get(&id) {
            teller.send_modify(|order| order.set_stage(stage));
        }
    }

    /// An order, and its changes from now on.
    pub(crate) fn watch(&self, id: u64) -> Option<watch::Receiver<Order>> {
        self.pages().orders.get(&id).map(watch::Sender::subscribe)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages
            .lock()
            .expect("nothing panics while it holds the lock")
    }
}

impl Pages {
    fn oldest_ready(&self) -> Option<u64> {
        let ready = |teller: &watch::Sender<Order>| teller.borrow().stage() == Stage::Ready;
        let mut orders = self.orders.iter();
        orders.find_map(|(id, teller)| ready(teller).then_some(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_order_that_is_ready() {
        let book = OrderBook::new(2);
        let first = book.place("filter".into()).expect("there is room");
        let second = book.place("filter".into()).expect("there is room");
        assert_eq!(book.place("filter".into()), Err(BookFull(2)));

        book.advance(second.id, Stage::Ready);
        let third = book.place("filter".into()).expect("one order is ready");
        assert!(book.watch(first.id).is_some());
        assert!(book.watch(second.id).is_none());
        assert!(book.watch(third.id).is_some());
    }

    #[test]
    fn tells_who_watches() {
        let book = OrderBook::new(1);
        let order = book.place("espresso".into()).expect("there is room");
        let mut watching = book.watch(order.id).expect("it is in the book");
        book.advance(order.id, Stage::Brewing);
        assert!(watching.has_changed().expect("the order is still there"));
        assert_eq!(watching.borrow_and_update().stage(), Stage::Brewing);
    }
}
