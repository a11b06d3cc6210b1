//! Start, the one select loop, and stop.
//!
//! The order of the start: first what only fails here (sockets, store), then the kernel, and the packet program on the
//! interfaces last, when maps and weights are right. Whatever fails before leaves traffic as it was.

use std::{
    future::IntoFuture as _,
    io::IsTerminal as _,
    path::Path,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use tracing_subscriber::EnvFilter;

use super::{
    AgentError,
    answers::Agent,
    api, exporter,
    external::External,
    kernel::Kernel,
    releases::{Releases, applied},
    request,
    request::Request,
    shapes::InterfaceStatus,
    socket::{self, SocketGuard},
    watches::Watches,
};
use crate::{
    config::{AgentConfig, Config},
    kernel::DataPlane,
    store::Store,
};

/// How often time passes for the releases.
const TICK: Duration = Duration::from_millis(100);
/// How long answers that are under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop or to detach.
pub fn run(config: Config) -> Result<(), AgentError> {
    log_to_stderr();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::System { what: "start the event loop", source })?;
    runtime.block_on(serve(&config))
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails only where a test has set a logger up already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// Why the loop ended.
enum End {
    Signal(&'static str),
    Detach { actor: String, answer: oneshot::Sender<Result<(), request::AnswerError>> },
}

async fn serve(config: &Config) -> Result<(), AgentError> {
    let mut signals = Signals::new()?;
    let listeners = Listeners::bind(&config.agent).await?;
    let (external, heard) = External::start(&config.services)?;
    let (mut agent, interfaces) = start(config)?;
    agent.releases.set_external(external);
    let mut watches = Watches::start(interfaces, agent.subjects(), heard);
    if let Some(alarms) = agent.releases.kernel_mut().fuse_alarms() {
        watches.listen(alarms);
    }
    let (servers, mut requests) = Servers::start(listeners);
    tell_service_manager(NotifyState::Ready);
    tracing::info!(socket = %config.agent.socket.display(), metrics = %config.agent.metrics, "agent_ready");

    let end = turn(&mut agent, &mut watches, &mut requests, &mut signals, &config.agent.bpffs).await;
    tell_service_manager(NotifyState::Stopping);
    // Whoever asks from now on hears that the agent is stopping.
    drop(requests);
    let ended = finish(agent, end);
    servers.stop().await;
    ended
}

/// What only one agent can have.
struct Listeners {
    control: (UnixListener, SocketGuard),
    metrics: TcpListener,
}

impl Listeners {
    async fn bind(config: &AgentConfig) -> Result<Self, AgentError> {
        let control = socket::listen(&config.socket, config.socket_group.as_deref())?;
        let address = config.metrics;
        let metrics = TcpListener::bind(address).await.map_err(|source| AgentError::Metrics { address, source })?;
        Ok(Self { control, metrics })
    }
}

/// Both HTTP servers.
struct Servers {
    api: JoinHandle<std::io::Result<()>>,
    stop_api: oneshot::Sender<()>,
    exporter: JoinHandle<()>,
    _socket: SocketGuard,
}

impl Servers {
    fn start(listeners: Listeners) -> (Self, mpsc::Receiver<Request>) {
        let (asker, requests) = request::channel();
        let (control, socket) = listeners.control;
        let (stop_api, stopped) = oneshot::channel::<()>();
        let service = api::router(asker.clone()).into_make_service_with_connect_info::<api::Peer>();
        let api = axum::serve(control, service).with_graceful_shutdown(async { drop(stopped.await) });
        let api = tokio::spawn(api.into_future());
        let exporter = tokio::spawn(exporter::serve(listeners.metrics, asker));
        (Self { api, stop_api, exporter, _socket: socket }, requests)
    }

    /// Lets answers that are under way out, then closes and removes the sockets.
    async fn stop(self) {
        self.exporter.abort();
        let _ = self.stop_api.send(());
        if tokio::time::timeout(LAST_ANSWERS, self.api).await.is_err() {
            tracing::debug!("connections_cut");
        }
    }
}

/// Store, kernel, weights, and at last the interfaces, whose indices are returned.
fn start(config: &Config) -> Result<(Agent<DataPlane>, Vec<u32>), AgentError> {
    let mut store = Store::open(&config.agent.state)?;
    // A store that cannot be written refuses the take-over, when the kernel would have been touched already.
    store.probe()?;
    // The releases lay what was changed at run time over the file's config by themselves.
    let present = applied(config, &store)?;
    let kernel = DataPlane::open(&present)?;
    let mut releases = Releases::new(config.services.clone(), kernel, store);
    let attached = releases.take_over().and_then(|()| Ok(releases.kernel_mut().attach()?));
    match attached {
        Ok(attachments) => {
            let indices = attachments.iter().map(|attachment| attachment.index).collect();
            let interfaces = attachments.into_iter().map(|attachment| {
                let mode = attachment.mode.name();
                tracing::info!(interface = attachment.interface, mode, "interface_attached");
                InterfaceStatus { name: attachment.interface, mode: mode.to_owned() }
            });
            Ok((Agent::new(releases, interfaces.collect(), Instant::now()), indices))
        }
        Err(error) => {
            if let Err(cleanup) = releases.into_kernel().abandon() {
                tracing::warn!("pins_left_behind {cleanup}");
            }
            Err(error)
        }
    }
}

async fn turn<K: Kernel>(
    agent: &mut Agent<K>,
    watches: &mut Watches,
    requests: &mut mpsc::Receiver<Request>,
    signals: &mut Signals,
    bpffs: &Path,
) -> End {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            name = signals.next() => return End::Signal(name),
            Some(request) = requests.recv() => {
                let may_change = matches!(request, Request::Command { .. });
                if let Some(end) = answer(agent, request, bpffs) {
                    return end;
                }
                if may_change {
                    watches.follow(agent.subjects());
                }
            }
            news = watches.next() => agent.hear(news),
            _ = ticks.tick() => agent.tick(Instant::now()),
        }
    }
}

/// Answers; whoever asked and has gone since needs no answer.
fn answer<K: Kernel>(agent: &mut Agent<K>, request: Request, bpffs: &Path) -> Option<End> {
    let now = Instant::now();
    match request {
        Request::Status { answer } => drop(answer.send(agent.status(now))),
        Request::Metrics { answer } => drop(answer.send(agent.snapshot(now))),
        Request::Health { answer } => drop(answer.send(agent.health())),
        Request::Pins { service, answer } => drop(answer.send(agent.pins(&service))),
        Request::History { query, answer } => drop(answer.send(agent.history(&query))),
        Request::Look(look) => agent.look(look),
        Request::Command { command, answer } => drop(answer.send(agent.command(&command, now))),
        Request::Detach { bpffs: Some(asked), answer, .. } if asked != bpffs => {
            drop(answer.send(Err(request::AnswerError::OtherPins { own: bpffs.to_owned(), asked })));
        }
        Request::Detach { actor, answer, .. } => return Some(End::Detach { actor, answer }),
    }
    None
}

fn finish(agent: Agent<DataPlane>, end: End) -> Result<(), AgentError> {
    let now = Instant::now();
    match end {
        End::Signal(name) => {
            drop(agent.close(now, "agent_stopped", "agent"));
            tracing::info!(
                signal = name,
                "agent_stopped: traffic goes on at the present weights; `grayxdp run` takes over, `grayxdp detach` takes all down"
            );
            Ok(())
        }
        End::Detach { actor, answer } => {
            let detached = agent.close(now, "detach", &actor).detach_all();
            match &detached {
                Ok(()) => tracing::info!(actor, "agent_detached: nothing of grayxdp is left in the kernel"),
                Err(error) => tracing::error!(actor, "detach_failed {error}"),
            }
            let told = match &detached {
                Ok(()) => Ok(()),
                Err(error) => Err(request::AnswerError::DetachFailed(error.to_string())),
            };
            // The command may have gone away; the detachment is done all the same.
            let _ = answer.send(told);
            detached.map_err(AgentError::from)
        }
    }
}

fn tell_service_manager(state: NotifyState<'_>) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::debug!("service_manager_not_told {error}");
    }
}

/// The signals that stop the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, AgentError> {
        let listen = |kind| signal(kind).map_err(|source| AgentError::System { what: "listen to signals", source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests;
