//! The gRPC service that makes the coffee.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::menu;
use crate::orders::OrderBook;
use crate::proto::barista_server::{self, BaristaServer};
use crate::proto::{NewOrder, Order, OrderId, Stage};

/// How many orders the barista remembers.
const MAX_ORDERS: usize = 1_000;

/// How long one stage takes.
const STAGE_TIME: Duration = Duration::from_millis(800);

/// The service, ready for a server.
pub(crate) fn service() -> BaristaServer<Barista> {
    BaristaServer::new(Barista {
        orders: Arc::new(OrderBook::new(MAX_ORDERS)),
    })
}

pub(crate) struct Barista {
    orders: Arc<OrderBook>,
}

#[tonic::async_trait]
impl barista_server::Barista for Barista {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Order, Status>> + Send>>;

    async fn place(&self, request: Request<NewOrder>) -> Result<Response<Order>, Status> {
        let coffee = request.into_inner().coffee;
        // Reception looks at the menu too, but it is not the only one who can call.
        if !menu::has(&coffee) {
            return Err(Status::invalid_argument("not on the menu"));
        }
        let order = match self.orders.place(coffee) {
            Ok(order) => order,
            Err(full) => return Err(Status::resource_exhausted(full.to_string())),
        };
        tracing::info!(order = order.id, coffee = order.coffee, "order taken");
        // Not a bare `tokio::spawn`: the task's lines bear the id of this call, and its panic would be seen.
        plimsoll::task::spawn("make_coffee", make(Arc::clone(&self.orders), order.id));
        Ok(Response::new(order))
    }

    async fn find(&self, request: Request<OrderId>) -> Result<Response<Order>, Status> {
        let order = self.watch_order(request)?.borrow().clone();
        Ok(Response::new(order))
    }

    async fn watch(
        &self,
        request: Request<OrderId>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let order = self.watch_order(request)?;
        Ok(Response::new(Box::pin(updates(order))))
    }
}

impl Barista {
    fn watch_order(&self, request: Request<OrderId>) -> Result<watch::Receiver<Order>, Status> {
        let order = self.orders.watch(request.into_inner().id);
        order.ok_or_else(|| Status::not_found("no such order"))
    }
}

/// Makes one coffee.
async fn make(orders: Arc<OrderBook>, id: u64) {
    for stage in [Stage::Grinding, Stage::Brewing, Stage::Ready] {
        tokio::time::sleep(STAGE_TIME).await;
        orders.advance(id, stage);
    }
    tracing::info!(order = id, "order ready");
}

/// The order as it is now, then each change, until it is ready.
fn updates(mut order: watch::Receiver<Order>) -> impl Stream<Item = Result<Order, Status>> + Send {
    order.mark_changed();
    stream::unfold(Some(order), |order| async move {
        let mut order = order?;
        if order.changed().await.is_err() {
            return Some((Err(Status::aborted("the order was forgotten")), None));
        }
        let now = order.borrow_and_update().clone();
        let more = now.stage() != Stage::Ready;
        Some((Ok(now), more.then_some(order)))
    })
}
