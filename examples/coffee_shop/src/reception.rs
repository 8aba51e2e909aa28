//! The HTTP service that guests talk to. It keeps nothing itself: orders are the barista's.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use plimsoll::preset::{Client, Sent};
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;
use tower::Layer;

use crate::failure::CallError;
use crate::menu::{self, Coffee, MENU};
use crate::proto::barista_client::BaristaClient;
use crate::proto::{NewOrder, Order, OrderId, Stage};

/// Passes the id, the trace and the deadline of the guest's call on to the barista.
type Barista = BaristaClient<Sent<Channel>>;

/// All pages of reception.
pub(crate) fn routes(barista: Channel, around: &Client) -> Router {
    let barista = around.layer(barista);
    Router::new()
        .route("/menu", get(menu))
        .route("/orders", post(place_order))
        .route("/orders/{id}", get(find_order))
        .route("/orders/{id}/updates", get(watch_order))
        .route("/drills/panic", get(drill_panic))
        .route("/drills/error", get(drill_error))
        .route("/drills/slow", get(drill_slow))
        .route("/drills/cut", get(drill_cut))
        .fallback(|| async { CallError::NoSuchPage })
        .method_not_allowed_fallback(|| async { CallError::WrongMethod })
        .with_state(BaristaClient::new(barista))
}

/// What a guest sends.
#[derive(Deserialize)]
struct Wish {
    coffee: String,
}

/// What a guest sees of an order.
#[derive(Serialize)]
struct Ticket {
    id: u64,
    coffee: String,
    stage: &'static str,
}

async fn menu() -> Json<&'static [Coffee]> {
    Json(MENU)
}

async fn place_order(
    State(mut barista): State<Barista>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Result<Response, CallError> {
    let Json(Wish { coffee }) = wish?;
    if !menu::has(&coffee) {
        return Err(CallError::NotOnTheMenu(coffee));
    }
    let order = barista.place(NewOrder { coffee }).await?.into_inner();
    let location = format!("/orders/{}", order.id);
    let ticket = Json(Ticket::from(order));
    Ok((StatusCode::CREATED, [(LOCATION, location)], ticket).into_response())
}

async fn find_order(
    State(mut barista): State<Barista>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Json<Ticket>, CallError> {
    let Path(id) = id?;
    let order = barista.find(OrderId { id }).await?.into_inner();
    Ok(Json(order.into()))
}

/// One line of JSON for each change, until the coffee is ready. If the barista fails on the way, the body is cut, so that
/// nobody takes half a story for a whole one.
async fn watch_order(
    State(mut barista): State<Barista>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Response, CallError> {
    let Path(id) = id?;
    let orders = barista.watch(OrderId { id }).await?.into_inner();
    let lines = orders.map_err(io::Error::other).and_then(async |order| {
        let mut line = serde_json::to_vec(&Ticket::from(order))?;
        line.push(b'\n');
        Ok(Bytes::from(line))
    });
    let kind = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// A bug: no request should end without an answer because of one.
async fn drill_panic() -> &'static str {
    panic!("a cup fell down")
}

/// A failure that the code knows of. The guest sees a 500, the access line tells the cause.
async fn drill_error() -> Result<Infallible, CallError> {
    Err(CallError::Grinder(io::Error::other("no beans left")))
}

/// A call that takes 3 s. Hang up before it ends and see what the access line says.
async fn drill_slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(3)).await;
    "sorry for the wait\n"
}

/// A body that fails half way: the head said 200 long ago.
async fn drill_cut() -> Body {
    let sips = [
        Ok("one sip\n"),
        Ok("another sip\n"),
        Err(io::Error::other("the cup leaks")),
    ];
    Body::from_stream(stream::iter(sips).then(async |sip| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sip
    }))
}

impl From<Order> for Ticket {
    fn from(order: Order) -> Self {
        let stage = match order.stage() {
            Stage::Queued => "queued",
            Stage::Grinding => "grinding",
            Stage::Brewing => "brewing",
            Stage::Ready => "ready",
        };
        Self {
            id: order.id,
            coffee: order.coffee,
            stage,
        }
    }
}
