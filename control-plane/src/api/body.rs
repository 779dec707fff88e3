//! Bodies under way, bounded by their bytes.
//!
//! A body takes its room from one budget before it is read, and a request that finds none is
//! answered at once with "come back later": waiting would hold what others have. A body that says
//! its length takes that much; one that does not takes more as it grows, by doubling. The room is
//! given back when the last slice of the body is gone, which is when its messages are stored, so a
//! client that hangs up early frees nothing that is still in use.
//!
//! Bounds: the bytes of all bodies here, and for each connection what hyper has read ahead
//! (`serve.rs`). What is parsed from a body is at most about as large again.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::Api;
use super::errors::ApiError;
use super::serve::Arrival;

/// What a body of unknown length takes at first.
const FIRST_BYTES: usize = 64 << 10;

/// Room for so many bytes of bodies.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    free: Arc<Semaphore>,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Budget {
        Budget { bytes_max, free: Arc::new(Semaphore::new(bytes_max)) }
    }

    pub fn held_bytes(&self) -> usize {
        self.bytes_max - self.free.available_permits()
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let bytes = u32::try_from(bytes).expect("a body's limit is far below 4 GiB");
        self.free.clone().try_acquire_many_owned(bytes).map_err(|_| ApiError::TooManyBodies)
    }
}

/// Reads the whole body. The caller has looked at the key before.
pub async fn read(api: &Api, request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    let arrival = request.extensions().get::<Arrival>().expect("the server notes it").clone();
    let mut stream = request.into_body();
    let too_large = ApiError::BodyTooLarge { bytes_max };
    let length = match stream.size_hint().exact() {
        Some(length) if length > bytes_max as u64 => return Err(too_large),
        Some(length) => length as usize,
        None => FIRST_BYTES.min(bytes_max),
    };
    let room = api.bodies.take(length)?;
    let mut body = Body { bytes: Vec::with_capacity(length), room };
    let reading = async {
        while let Some(frame) = poll_fn(|context| Pin::new(&mut stream).poll_frame(context)).await {
            let frame = frame.map_err(|_| ApiError::BodyIncomplete)?;
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            let length = body.bytes.len() + data.len();
            if length > bytes_max {
                return Err(too_large.clone());
            }
            body.grow(length, bytes_max, &api.bodies)?;
            body.bytes.extend_from_slice(&data);
        }
        Ok(())
    };
    timeout_at(arrival.whole_by, reading).await.map_err(|_| ApiError::RequestTimeout)??;
    arrival.is_whole();
    Ok(Bytes::from_owner(body))
}

/// A body and the room that it takes.
struct Body {
    bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
}

impl Body {
    /// Makes room for `length` bytes in all.
    fn grow(&mut self, length: usize, bytes_max: usize, budget: &Budget) -> Result<(), ApiError> {
        let held = self.room.num_permits();
        if length > held {
            let wanted = length.max(2 * held).min(bytes_max);
            self.room.merge(budget.take(wanted - held)?);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        Ok(())
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_to_the_last_byte_and_given_back_with_the_last_slice() {
        let budget = Budget::new(100);
        let body = Body { bytes: vec![7; 60], room: budget.take(60).unwrap() };
        let bytes = Bytes::from_owner(body);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(budget.held_bytes(), 60);
        assert_eq!(budget.take(41).unwrap_err(), ApiError::TooManyBodies);
        assert!(budget.take(40).is_ok());
        drop(slice);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[test]
    fn a_body_of_unknown_length_grows_within_its_limit() {
        let budget = Budget::new(1000);
        let mut body = Body { bytes: Vec::new(), room: budget.take(10).unwrap() };
        for (length, expect) in [(10, 10), (11, 20), (50, 50), (51, 100), (120, 120)] {
            body.grow(length, 120, &budget).unwrap();
            assert_eq!(budget.held_bytes(), expect, "{length}");
        }
        let other = budget.take(870).unwrap();
        assert_eq!(body.grow(131, 500, &budget).unwrap_err(), ApiError::TooManyBodies);
        drop(other);
        body.grow(131, 500, &budget).unwrap();
        drop(body);
        assert_eq!(budget.held_bytes(), 0);
    }
}
