//! Bodies as they are passed on: what was read of one, and then the rest.
//!
//! Invariants:
//! 1. A body that nobody had to read is neither boxed nor copied.
//! 2. Reading stops before more is held than was allowed, and gives back all that it read.
//! 3. What is held of a body takes little more than its bytes, in however many pieces it comes.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Pieces under this are put together: each that is kept by itself takes memory of its own, and keeps what it was cut
/// from.
const PIECE_BYTES_MIN: usize = 4 * 1024;

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

/// The pieces of a body, as they come.
#[derive(Default)]
struct Pieces {
    data: Vec<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl Pieces {
    fn add(&mut self, piece: Bytes) {
        self.bytes = self.bytes.saturating_add(piece.len());
        if piece.len() < PIECE_BYTES_MIN {
            self.small.extend_from_slice(&piece);
        } else {
            self.put_together();
            self.data.push(piece);
        }
    }

    fn put_together(&mut self) {
        let small = self.small.split().freeze();
        if !small.is_empty() {
            self.data.push(small);
        }
    }

    fn whole(mut self, trailers: Option<HeaderMap>) -> Whole {
        self.put_together();
        Whole { data: self.data, trailers }
    }
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
    let (mut pieces, mut trailers) = (Pieces::default(), None);
    let passed = |pieces: Pieces, trailers, failed, body| PassedBody {
        failed,
        rest: Rest::Pinned { body },
        ..PassedBody::whole(pieces.whole(trailers))
    };
    loop {
        let polled = poll_fn(|context| match body.as_mut().poll_frame(context) {
            Poll::Pending if waits == Waits::ForNothing => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match polled.await {
            None => return Read::Over(passed(pieces, trailers, None, body)),
            Some(None) => return Read::Whole(pieces.whole(trailers)),
            Some(Some(Err(error))) => return Read::Failed(passed(pieces, trailers, Some(error), body)),
            Some(Some(Ok(frame))) => match into_bytes(frame).into_data() {
                Ok(data) => {
                    pieces.add(data);
                    if pieces.bytes > bytes_max {
                        return Read::Over(passed(pieces, trailers, None, body));
                    }
                }
                // Trailers end a body.
                Err(frame) => trailers = frame.into_trailers().ok(),
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::{BodyExt, Full};

    use super::*;

    /// Frames, the last one first, and whether it fails behind them.
    struct Frames(Vec<Frame<&'static [u8]>>, bool);

    impl Body for Frames {
        type Data = &'static [u8];
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<&'static [u8]>, &'static str>>> {
            let frame = self.0.pop().map(Ok);
            if frame.as_ref().is_some_and(|frame| frame.as_ref().is_ok_and(|f| f.data_ref() == Some(&&b"later"[..]))) {
                self.0.push(Frame::data(b"then"));
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(frame.or_else(|| std::mem::take(&mut self.1).then_some(Err("it broke"))))
        }
    }

    fn frames(data: &[&'static str], fails: bool) -> Frames {
        Frames(data.iter().rev().map(|data| Frame::data(data.as_bytes())).collect(), fails)
    }

    /// All data of a body, and the error behind them.
    async fn all<B: Body<Error = &'static str>>(body: PassedBody<B>) -> (String, Option<&'static str>) {
        let (mut body, mut data) = (Box::pin(body), Vec::new());
        loop {
            match body.frame().await {
                None => return (String::from_utf8(data).unwrap(), None),
                Some(Ok(frame)) => data.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return (String::from_utf8(data).unwrap(), Some(error)),
            }
        }
    }

    #[tokio::test]
    async fn what_was_read_comes_before_the_rest_and_before_the_error() {
        let Read::Over(over) = read(frames(&["one", "two", "six"], true), 5, Waits::ForTheEnd).await else { panic!() };
        assert_eq!(over.size_hint().lower(), 6);
        assert_eq!(all(over).await, ("onetwosix".to_owned(), Some("it broke")));
        let Read::Failed(failed) = read(frames(&["one", "two"], true), 9, Waits::ForTheEnd).await else { panic!() };
        assert!(!failed.is_end_stream());
        assert_eq!(all(failed).await, ("onetwo".to_owned(), Some("it broke")));
    }

    #[tokio::test]
    async fn what_is_not_there_at_once_is_waited_for_or_is_a_stream() {
        let late = || frames(&["one", "later"], false);
        let Read::Whole(whole) = read(late(), 9, Waits::ForTheEnd).await else { panic!() };
        assert_eq!(whole.bytes(), "onethen");
        let Read::Over(stream) = read(late(), 9, Waits::ForNothing).await else { panic!() };
        assert_eq!(all(stream).await, ("onethen".to_owned(), None));
    }

    #[tokio::test]
    async fn the_limit_is_exact_and_what_announces_more_is_not_read() {
        assert!(matches!(read(frames(&["one", "two"], false), 6, Waits::ForTheEnd).await, Read::Whole(_)));
        assert!(matches!(read(frames(&["one", "two"], false), 5, Waits::ForTheEnd).await, Read::Over(_)));
        let Read::Over(over) = read(Full::new(&b"onetwo"[..]), 5, Waits::ForTheEnd).await else { panic!() };
        assert!(matches!(over.rest, Rest::Plain { .. }) && over.read.is_empty());
    }

    /// A client that sends a byte at a time makes nobody keep more than its bytes.
    #[tokio::test]
    async fn small_pieces_are_put_together_and_large_ones_are_not_copied() {
        let (small, large) = (Frame::data(&b"x"[..]), vec![b'y'; PIECE_BYTES_MIN].leak());
        let mut pieces: Vec<_> = (0..10_000).map(|_| Frame::data(&b"x"[..])).collect();
        pieces.extend([Frame::data(&*large), small]);
        let Read::Whole(whole) = read(Frames(pieces, false), 20_000, Waits::ForTheEnd).await else { panic!() };
        assert_eq!(whole.data.iter().map(Bytes::len).collect::<Vec<_>>(), [1, PIECE_BYTES_MIN, 10_000]);
        assert_eq!(whole.bytes().len(), 10_001 + PIECE_BYTES_MIN);
    }

    #[tokio::test]
    async fn trailers_stay_behind_the_data() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x", HeaderValue::from_static("y"));
        let body = Frames(vec![Frame::trailers(trailers.clone()), Frame::data(b"one")], false);
        let Read::Whole(whole) = read(body, 9, Waits::ForTheEnd).await else { panic!() };
        let collected = PassedBody::<Frames>::whole(whole).collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "one");
    }
}
