//! A network between a server and PostgreSQL that can be cut.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is passed on.
    Nothing,
    /// The connection is cut before a COMMIT arrives.
    Before,
    /// A COMMIT arrives, its answer does not.
    After,
    /// Nothing is passed on any more, and nobody is told.
    Silence,
    /// All connections are cut at once, and new ones, too.
    Down,
}

pub struct Proxy {
    pub port: u16,
    mode: watch::Sender<Cut>,
}

impl Proxy {
    /// Before the server at `port`.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Cut::Nothing);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mode, mut down) = (modes.clone(), modes.clone());
                tokio::spawn(async move {
                    let passing = async {
                        if let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await {
                            pass(near, far, &mode).await;
                        }
                    };
                    tokio::select! {
                        biased;
                        _ = down.wait_for(|mode| *mode == Cut::Down) => {}
                        () = passing => {}
                    }
                });
            }
        });
        Self { port: own, mode }
    }

    pub fn cut(&self, cut: Cut) {
        self.mode.send_replace(cut);
    }
}

/// Passes on until one side ends or it is cut.
async fn pass(near: TcpStream, far: TcpStream, mode: &watch::Receiver<Cut>) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let is = |cut: Cut| *mode.borrow() == cut;
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
