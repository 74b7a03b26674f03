//! A network between a store and PostgreSQL that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// It is passed on.
    Nothing = 0,
    /// The connection is cut before it arrives.
    Before = 1,
    /// It arrives, its answer does not.
    After = 2,
    /// Nothing is passed on any more, and nobody is told.
    Silence = 3,
}

pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    /// Before the server at `port`.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let mode = Arc::new(AtomicU8::new(0));
        let shared = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mode = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await {
                        pass(near, far, &mode).await;
                    }
                });
            }
        });
        Self { port: own, mode }
    }

    pub fn cut(&self, cut: Cut) {
        self.mode.store(cut as u8, Ordering::SeqCst);
    }
}

/// Passes on until one side ends or it is cut.
async fn pass(near: TcpStream, far: TcpStream, mode: &AtomicU8) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let is = |cut: Cut| mode.load(Ordering::SeqCst) == cut as u8;
    let forth = async {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let Ok(count @ 1..) = near_in.read(&mut bytes).await else {
                return;
            };
            let bytes = &bytes[..count];
            let commits = bytes.windows(7).any(|word| word == b"COMMIT\0");
            if is(Cut::Silence) {
                std::future::pending::<()>().await;
            }
            if commits && is(Cut::Before) {
                return;
            }
            if far_out.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let Ok(count @ 1..) = far_in.read(&mut bytes).await else {
                return;
            };
            if is(Cut::Silence) {
                std::future::pending::<()>().await;
            }
            let bytes = &bytes[..count];
            // The answer's tag: it was done, and nobody hears of it.
            if is(Cut::After) && bytes.windows(7).any(|word| word == b"COMMIT\0") {
                return;
            }
            if near_out.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = forth => {}
        () = back => {}
    }
}
