//! The body of a request, read only by handlers that want it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

/// What follows a request's head. Dropped unread, it costs nothing.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    limit: usize,
    deadline: Duration,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than the limit, in bytes.
    #[error("the request's body is larger than {0} bytes")]
    TooLarge(usize),
    /// It did not arrive in time.
    #[error("the request's body did not arrive within {0:?}")]
    Timeout(Duration),
    /// The client broke off.
    #[error("unable to read the request's body: {0}")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Body {
    pub(crate) fn new(incoming: Incoming, limit: usize, deadline: Duration) -> Self {
        Self { incoming, limit, deadline }
    }

    /// All of it, within the server's limits of size and time.
    ///
    /// # Errors
    /// [`BodyError`] says which limit it broke.
    pub async fn bytes(self) -> Result<Bytes, BodyError> {
        let reading = Limited::new(self.incoming, self.limit).collect();
        match tokio::time::timeout(self.deadline, reading).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(BodyError::TooLarge(self.limit))
            }
            Ok(Err(error)) => Err(BodyError::Read(error)),
            Err(_) => Err(BodyError::Timeout(self.deadline)),
        }
    }
}
