//! A worker: acknowledges what it could do, fails what may work later, gives up what never will, and answers who asks.
//!
//! `POSTBELL_URL` says where the broker is, `POSTBELL_TOKEN` is the agent's. An argument names the agent.

use std::env;
use std::time::Duration;

use postbell_client::message::MessageType;
use postbell_client::{Builder, Client, ClientError, Delivery, Outgoing};
use serde::Deserialize;

#[derive(Deserialize)]
struct Work {
    county: String,
}

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let agent = env::args().nth(1).unwrap_or_else(|| "worker".to_owned());
    let url = env::var("POSTBELL_URL").unwrap_or_else(|_| "tcp://127.0.0.1:7440".to_owned());
    let token = env::var("POSTBELL_TOKEN").unwrap_or_default();
    let (client, mut deliveries) = Builder::new(&url, &agent, &token).window(32).connect().await?;
    while let Some(delivery) = deliveries.next().await {
        if delivery.message_type() == MessageType::Query.as_str() {
            answer(&client, delivery).await?;
        } else {
            handle(delivery).await;
        }
    }
    Ok(())
}

async fn handle(delivery: Delivery) {
    match delivery.payload_as::<Work>() {
        Err(e) => delivery.dead(&e.to_string()).await,
        Ok(work) if work.county.is_empty() => {
            delivery.fail("no county yet", Some(Duration::from_secs(10))).await
        }
        Ok(work) => {
            println!("did {}", work.county);
            delivery.ack().await;
        }
    }
}

async fn answer(client: &Client, question: Delivery) -> Result<(), ClientError> {
    client.send(Outgoing::answer(&question, &"working")?).await?;
    // Only now: if this process ends before the answer is sent, another one answers.
    question.ack().await;
    Ok(())
}
