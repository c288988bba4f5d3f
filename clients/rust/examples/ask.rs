//! Asks an agent and prints its answer.
//!
//! `POSTBELL_URL` says where the broker is, `POSTBELL_TOKEN` is the agent's. The arguments: the asking agent, the asked one, the question.

use std::env;
use std::time::Duration;

use postbell_client::message::MessageType;
use postbell_client::{Builder, ClientError, Outgoing};

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let mut arguments = env::args().skip(1);
    let mut next = |otherwise: &str| arguments.next().unwrap_or_else(|| otherwise.to_owned());
    let (agent, asked, text) = (next("asker"), next("worker"), next("how are you?"));
    let url = env::var("POSTBELL_URL").unwrap_or_else(|_| "tcp://127.0.0.1:7440".to_owned());
    let token = env::var("POSTBELL_TOKEN").unwrap_or_default();
    // A window of 0: this process takes no message but answers.
    let (client, _deliveries) = Builder::new(&url, &agent, &token).window(0).connect().await?;
    let question = Outgoing::new(&asked, MessageType::Query, &text)?;
    let answer = client.request(question, Duration::from_secs(10)).await?;
    println!("{}", answer.payload);
    client.close().await;
    Ok(())
}
