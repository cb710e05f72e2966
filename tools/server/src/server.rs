//! The server's life: listen, load, serve, drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::app::{App, Phase};
use crate::connection;
use crate::limits::Limits;
use crate::model::Execution;
use crate::repository::{Repository, Sources};
use crate::routes;
use crate::watch::{Place, Watch};

/// Connections that the system keeps while none can be accepted.
const BACKLOG: u32 = 1024;
/// Pause after the system refused a connection, as it does without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything a server is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address and port; port 0 takes any.
    pub listen: SocketAddr,
    /// The models.
    pub sources: Sources,
    /// How they run.
    pub execution: Execution,
    /// What clients may cost.
    pub limits: Limits,
    /// Shortest time between two looks at model files that changed, and between any two where changes are
    /// not told; no look, if absent.
    pub reload: Option<Duration>,
    /// How long to go on after the signal to stop, so that balancers see that this server is not ready.
    pub drain_delay: Duration,
    /// How long accepted requests may take after that.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            sources: Sources::default(),
            execution: Execution::default(),
            limits: Limits::default(),
            reload: Some(Duration::from_secs(1)),
            drain_delay: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    settings: Settings,
}

/// Connections, and what ends them.
struct Connections {
    app: Arc<App>,
    router: Router,
    limits: Arc<Limits>,
    places: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl Server {
    /// Listens; nothing is loaded yet.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let listener = listen(settings.listen)
            .with_context(|| format!("cannot listen on {}", settings.listen))?;
        Ok(Self { listener, settings })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Loads the models and serves them until `stop` ends; then drains.
    ///
    /// # Errors
    /// A model that cannot be served at the start; requests that were not finished in time.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { listener, settings } = self;
        // What the program carries cannot change.
        let places = settings.sources.places();
        let reload_period = settings.reload.filter(|_| !places.is_empty());
        let repository = Repository::new(settings.sources, settings.execution);
        let app = Arc::new(App::new(settings.limits.clone(), repository));
        let (close, closing) = watch::channel(false);
        let connections = Connections {
            router: routes::router(Arc::clone(&app)),
            limits: Arc::new(settings.limits),
            places: Arc::new(Semaphore::new(app.limits.max_connections)),
            app: Arc::clone(&app),
            closing,
        };
        let open = Arc::clone(&connections.places);
        let accepting = tokio::spawn(connections.accept(listener));
        let loading = Arc::clone(&app);
        let load = spawn_blocking(move || loading.repository.load(&loading.metrics));
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            loaded = load => loaded.context("loading panicked")??,
            () = &mut stop => return Ok(()),
        }
        app.enter(Phase::Serving);
        info!("ready");
        let watching =
            reload_period.map(|period| tokio::spawn(reload(Arc::clone(&app), places, period)));

        stop.await;
        app.enter(Phase::Draining);
        info!(seconds = settings.drain_delay.as_secs_f64(), "not ready any more, still serving");
        sleep(settings.drain_delay).await;
        close.send_replace(true);
        accepting.await.context("accepting panicked")?;
        if let Some(watching) = watching {
            watching.abort();
        }
        let all = u32::try_from(app.limits.max_connections).unwrap_or(u32::MAX);
        let ended = timeout(settings.drain_timeout, open.acquire_many(all)).await;
        ended.map(drop).with_context(|| {
            let open = app.limits.max_connections - open.available_permits();
            format!("{open} connections were still open after {:?}", settings.drain_timeout)
        })?;
        info!("all requests are answered");
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Answers are written at once and whole. Connections inherit it.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Connections {
    /// Accepts until told to close; then what the system has accepted so far.
    async fn accept(self, listener: TcpListener) {
        let mut closing = self.closing.clone();
        let closed = async move {
            let _ = closing.wait_for(|closing| *closing).await;
        };
        tokio::select! {
            () = closed => {}
            () = self.accept_all(&listener) => {}
        }
        // Before the port closes, those who have been told that they are connected.
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, _)) = listener.accept() {
            let place = Arc::clone(&self.places).try_acquire_owned();
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let (Ok(place), Ok(stream)) = (place, stream) {
                self.spawn(stream, place);
            }
        }
    }

    async fn accept_all(&self, listener: &TcpListener) {
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, place),
                Err(error) => {
                    warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let (router, limits) = (self.router.clone(), Arc::clone(&self.limits));
        let (app, closing) = (Arc::clone(&self.app), self.closing.clone());
        tokio::spawn(async move {
            let _place = place;
            app.metrics.connections.inc();
            connection::serve(stream, router, limits, closing).await;
            app.metrics.connections.dec();
        });
    }
}

/// Looks at the model files whenever they may have changed.
async fn reload(app: Arc<App>, places: Vec<Place>, period: Duration) {
    let places = Arc::new(places);
    let mut watch = None;
    loop {
        let (app, places, old) = (Arc::clone(&app), Arc::clone(&places), watch.take());
        let looked = spawn_blocking(move || {
            // Folders may have come and gone. Whatever changes from here on is told, so nothing is missed.
            drop(old);
            let watch = Watch::new(&places);
            app.repository.refresh(&app.metrics);
            watch
        });
        match looked.await {
            Ok(new) => watch.insert(new).changed(period).await,
            Err(_) => {
                warn!("looking at the model files panicked");
                sleep(period).await;
            }
        }
    }
}
