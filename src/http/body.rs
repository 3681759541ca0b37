//! Bodies as they are passed on: what was read of one, and then the rest.
//!
//! Invariants:
//! 1. A body that nobody had to read is neither boxed nor copied.
//! 2. Reading stops before more is held than was allowed, and gives back all that it read.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a request or a response behind the layer: what the layer read of it, and then the rest.
    ///
    /// The data are [`Bytes`], whatever they were before; errors are those of the body inside.
    pub struct PassedBody<B: Body> {
        read: VecDeque<Frame<Bytes>>,
        failed: Option<B::Error>,
        #[pin]
        rest: Rest<B>,
    }
}

pin_project! {
    #[project = RestProjected]
    enum Rest<B> {
        /// Not touched so far.
        Plain { #[pin] body: B },
        /// Read in part.
        Pinned { body: Pin<Box<B>> },
        Nothing,
    }
}

/// What reading a body came to.
pub(super) enum Read<B: Body> {
    /// All of it.
    Whole(Whole),
    /// There is more than was allowed, or it was to be there at once and is not: as if nobody had read it.
    Over(PassedBody<B>),
    /// It failed: likewise, with its error in its place.
    Failed(PassedBody<B>),
}

/// A body that was read to its end.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) data: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

/// How long reading waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// Until the body ends.
    ForTheEnd,
    /// Not at all: what is not there yet is a stream.
    ForNothing,
}

impl Whole {
    /// Its data, one after the other.
    pub(super) fn bytes(&self) -> Bytes {
        match &*self.data {
            [] => Bytes::new(),
            [only] => only.clone(),
            several => several.concat().into(),
        }
    }
}

impl<B: Body> PassedBody<B> {
    /// A body as it came.
    pub(super) fn untouched(body: B) -> Self {
        Self { read: VecDeque::new(), failed: None, rest: Rest::Plain { body } }
    }

    /// A body that is all here.
    pub(super) fn whole(whole: Whole) -> Self {
        let data = whole.data.into_iter().map(Frame::data);
        let read = data.chain(whole.trailers.map(Frame::trailers)).collect();
        Self { read, failed: None, rest: Rest::Nothing }
    }
}

/// Reads a body to its end, as long as it has no more than so many bytes.
pub(super) async fn read<B: Body>(body: B, bytes_max: usize, waits: Waits) -> Read<B> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Read::Over(PassedBody::untouched(body));
    }
    let mut body = Box::pin(body);
    let (mut whole, mut bytes) = (Whole::default(), 0_usize);
    let passed = |whole, failed, body| PassedBody { failed, rest: Rest::Pinned { body }, ..PassedBody::whole(whole) };
    loop {
        let polled = poll_fn(|context| match body.as_mut().poll_frame(context) {
            Poll::Pending if waits == Waits::ForNothing => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match polled.await {
            None => return Read::Over(passed(whole, None, body)),
            Some(None) => return Read::Whole(whole),
            Some(Some(Err(error))) => return Read::Failed(passed(whole, Some(error), body)),
            Some(Some(Ok(frame))) => match into_bytes(frame).into_data() {
                Ok(data) => {
                    bytes = bytes.saturating_add(data.len());
                    whole.data.push(data);
                    if bytes > bytes_max {
                        return Read::Over(passed(whole, None, body));
                    }
                }
                // Trailers end a body.
                Err(frame) => whole.trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// The same frame, of [`Bytes`]; nothing is copied where it is of those already.
fn into_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

impl<B: Body> fmt::Debug for PassedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassedBody").field("size_hint", &self.size_hint()).finish_non_exhaustive()
    }
}

impl<B: Body> Body for PassedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let passed = self.project();
        if let Some(frame) = passed.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = passed.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = match passed.rest.project() {
            RestProjected::Plain { body } => body.poll_frame(context),
            RestProjected::Pinned { body } => body.as_mut().poll_frame(context),
            RestProjected::Nothing => Poll::Ready(None),
        };
        polled.map(|frame| frame.map(|frame| frame.map(into_bytes)))
    }

    fn is_end_stream(&self) -> bool {
        let is_end_of_rest = match &self.rest {
            Rest::Plain { body } => body.is_end_stream(),
            Rest::Pinned { body } => body.is_end_stream(),
            Rest::Nothing => true,
        };
        is_end_of_rest && self.read.is_empty() && self.failed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = match &self.rest {
            Rest::Plain { body } => body.size_hint(),
            Rest::Pinned { body } => body.size_hint(),
            Rest::Nothing => SizeHint::with_exact(0),
        };
        let read = self.read.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum::<u64>();
        if read > 0 {
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper.saturating_add(read));
            }
            hint.set_lower(hint.lower().saturating_add(read));
        }
        hint
    }
}
