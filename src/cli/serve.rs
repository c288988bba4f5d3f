//! `postbell serve`: the broker.

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use prometheus::Registry;
use tokio::net::TcpListener;

use super::Exit;
use super::settings::BrokerArgs;
use crate::agents::server::tls::Tls;
use crate::base::open_files;
use crate::broker::config::Config;
use crate::broker::{self, Stopped};

pub(super) async fn run(args: BrokerArgs) -> Exit {
    let config = Config::parse(|env| args.value(env))?;
    // A bad certificate is refused before anything is touched; the broker reads it again.
    config.tls.as_ref().map(Tls::load).transpose()?;
    tracing::info!(database = %config.database.url, schema = %config.database.schema, "checking the database");
    broker::check(&config).await?;
    let (agents, http) = bind(&config).await?;
    let open_files = open_files::raise_bound();
    tracing::info!(open_files, agents = %agents.local_addr()?, http = %http.local_addr()?, "the broker is up");
    let stopped = broker::run(config, agents, http, Registry::new(), stop_signal()?).await?;
    Ok(report(stopped))
}

/// Opens both ports.
pub(super) async fn bind(config: &Config) -> anyhow::Result<(TcpListener, TcpListener)> {
    let agents = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "agents' port {} cannot be opened (POSTBELL_LISTEN); is another broker running?",
            config.listen
        )
    })?;
    let http = TcpListener::bind(config.http)
        .await
        .with_context(|| format!("the port for /metrics {} cannot be opened (POSTBELL_HTTP)", config.http))?;
    Ok((agents, http))
}

/// Logs how the stop went. The exit status is 1 if the broker stopped by itself, or could not write every outcome.
pub(super) fn report(stopped: Stopped) -> ExitCode {
    match stopped {
        Stopped { given_back: 0, unsettled: 0, .. } => {
            tracing::info!("stopped cleanly: nothing was in flight");
        }
        Stopped { given_back, unsettled, .. } => tracing::warn!(
            given_back,
            unsettled,
            "stopped at the deadline: what was in flight or not yet written is delivered again"
        ),
    }
    if stopped.broken || stopped.unsettled > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Ctrl-C, or SIGTERM as platforms send it.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    #[cfg(unix)]
    let terminated = async move {
        terminate.recv().await;
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    Ok(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = terminated => {}
        }
    })
}
