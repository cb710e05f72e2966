//! One connection: HTTP/1.1, and the timers that close it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::limits::{Limits, MAX_HEAD_BYTES};

/// Read buffer of a connection; also the largest piece of a body.
const BUFFER_BYTES: usize = 128 << 10;
const MAX_HEADERS: usize = 64;
/// How long a new connection may take for its request after `closing` turned true: its client was
/// told that it is connected, and its request may be under way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What a connection is waiting for, and since when.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Its first request; none of it has come.
    New(Instant),
    /// A further request; none of it has come.
    Idle(Instant),
    /// The rest of a request's head.
    Head(Instant),
    /// An answer, or the body it needs: the handler has its own deadlines.
    Busy,
}

/// A connection's state, shared by its socket and its requests.
struct Watch {
    state: Mutex<State>,
    head_timeout: Duration,
    idle_timeout: Duration,
}

impl Watch {
    fn new(limits: &Limits) -> Self {
        let state = Mutex::new(State::New(Instant::now()));
        let Limits { head_timeout, idle_timeout, .. } = *limits;
        Self { state, head_timeout, idle_timeout }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the connection is to be closed if nothing changes.
    fn deadline(&self) -> Option<Instant> {
        match *self.state() {
            State::Idle(since) => Some(since + self.idle_timeout),
            // A connection that says nothing at first is no better than a slow head.
            State::New(since) | State::Head(since) => Some(since + self.head_timeout),
            State::Busy => None,
        }
    }

    fn is_new(&self) -> bool {
        matches!(*self.state(), State::New(_))
    }

    fn received(&self) {
        let mut state = self.state();
        match *state {
            State::New(since) => *state = State::Head(since),
            State::Idle(_) => *state = State::Head(Instant::now()),
            State::Head(_) | State::Busy => {}
        }
    }
}

/// Serves one connection until it ends, is overdue, or is idle after `closing` turns true. A new one
/// is served once even then.
pub(crate) async fn serve(
    stream: TcpStream,
    router: Router,
    limits: Arc<Limits>,
    mut closing: watch::Receiver<bool>,
) {
    let watch = Arc::new(Watch::new(&limits));
    let io = TokioIo::new(Watched { stream, watch: Arc::clone(&watch) });
    let router = TowerToHyperService::new(router);
    let requests = Arc::clone(&watch);
    let service = service_fn(move |request: Request<Incoming>| {
        *requests.state() = State::Busy;
        let (answer, watch) = (router.call(request.map(Body::new)), Arc::clone(&requests));
        async move {
            let answer = answer.await;
            *watch.state() = State::Idle(Instant::now());
            answer
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // `Watch` tells a slow head from an idle connection; this timer does not.
            .header_read_timeout(None)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(io, service)
    );
    let mut closed = pin!(async move { closing.wait_for(|closing| *closing).await.is_ok() });
    let (mut last_call, mut is_told) = (None, false);
    let mut timer = pin!(sleep_until(Instant::now()));
    let end = poll_fn(|context| {
        if last_call.is_none() && closed.as_mut().poll(context).is_ready() {
            last_call = Some(Instant::now() + LAST_CALL);
        }
        loop {
            if let Poll::Ready(end) = connection.as_mut().poll(context) {
                return Poll::Ready(end.map_err(|e| e.to_string()));
            }
            if last_call.is_none() || is_told || watch.is_new() {
                break;
            }
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        let Some(mut deadline) = watch.deadline() else { return Poll::Pending };
        if let (Some(last_call), true) = (last_call, watch.is_new()) {
            deadline = deadline.min(last_call);
        }
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err("the client was silent for too long".to_owned()))
    });
    if let Err(reason) = end.await {
        debug!(reason, "connection ended");
    }
}

/// A socket that tells when bytes arrive.
struct Watched {
    stream: TcpStream,
    watch: Arc<Watch>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.watch.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
