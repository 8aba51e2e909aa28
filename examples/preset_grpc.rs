//! `cargo run --example preset_grpc --features preset,health-grpc`: a program of tonic with the whole stack, by two lines.
//!
//!     curl -i --http2-prior-knowledge http://127.0.0.1:50051/grpc.health.v1.Health/Check \
//!       -H 'content-type: application/grpc' -H 'te: trailers' --data-binary $'\0\0\0\0\0' --output -
//!
//! Each call is a line on stdout, with its status of gRPC, at its true end.

use std::error::Error;

use plimsoll::ops::health::Health;
use tonic::transport::Server;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let stack = plimsoll::preset::server("barista")
        .rpc_methods(["grpc.health.v1.Health/Check"])
        .start()?; // one line
    Server::builder()
        .layer(stack.layer()) // and another
        .add_service(Health::new().grpc()) // in place of a service of yours
        .serve("127.0.0.1:50051".parse()?)
        .await?;
    Ok(())
}
