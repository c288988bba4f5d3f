//! A scheduled job: handles what waits and ends when nothing came for a second.
//!
//! `POSTBELL_URL` says where the broker is, `POSTBELL_TOKEN` is the agent's. An argument names the agent.

use std::env;
use std::time::Duration;

use postbell_client::{Builder, ClientError};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let agent = env::args().nth(1).unwrap_or_else(|| "nightly".to_owned());
    let url = env::var("POSTBELL_URL").unwrap_or_else(|_| "tcp://127.0.0.1:7440".to_owned());
    let token = env::var("POSTBELL_TOKEN").unwrap_or_default();
    let (client, mut deliveries) = Builder::new(&url, &agent, &token).connect().await?;
    let mut handled = 0;
    while let Ok(Some(delivery)) = timeout(Duration::from_secs(1), deliveries.next()).await {
        println!("{}", delivery.payload());
        delivery.ack_confirmed().await?;
        handled += 1;
    }
    println!("handled {handled}");
    client.close().await;
    Ok(())
}
