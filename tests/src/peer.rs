//! Peers that follow a script: a client over QUIC or TCP and a QUIC server written from
//! `docs/PROTOCOL.md` and not from the agent, which do the right step or a wrong one; and the built
//! programs, started, killed, and cleaned up. No suite sleeps: every wait is for a condition, with
//! a deadline.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tocsin_proto::{
    bounded::{Fixed, List},
    delegation::{Delegation, KeyRole},
    id::Country,
    limits::{ALPN, EXPORTER_LABEL, FRAME_TO_AGENT_MAX, PROTOCOL_VERSION},
    line::CollectorLine,
    message::{GoAway, Greeting, Hello, Message, Prove, Ready, Tag, Transcript},
    sign::{PublicKey, SecretKey},
    time::Timestamp,
    wire::{Deframer, Frame},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longest wait for one answer on loopback, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is an answer.
///
/// # Errors
/// When there is none within the time.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let looking = async {
        let mut turns = tokio::time::interval(LOOK_EVERY);
        loop {
            turns.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    timeout(within, looking).await.with_context(|| format!("{what}: not within {within:?}"))
}

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Asks by GET over one TCP connection.
///
/// # Errors
/// When there is no answer, or none that is HTTP.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        anyhow::Ok(bytes)
    };
    let bytes = timeout(PATIENCE, asking).await.context("no answer over HTTP in time")??;
    let text = String::from_utf8(bytes).context("the answer is no text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no headers")?;
    ensure!(
        !head.to_ascii_lowercase().contains("transfer-encoding"),
        "the answer is in chunks, which this reader does not know"
    );
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.context("the answer has no status")?, body: body.to_owned() })
}

/// Takes any certificate: the scripts are about what stands behind it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Without an ALPN nothing is offered.
fn tls_config(alpn: &[u8]) -> anyhow::Result<rustls::ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    if !alpn.is_empty() {
        tls.alpn_protocols = vec![alpn.to_vec()];
    }
    Ok(tls)
}

fn client_config(alpn: &[u8]) -> anyhow::Result<quinn::ClientConfig> {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls_config(alpn)?)?;
    Ok(quinn::ClientConfig::new(Arc::new(tls)))
}

/// The session is over, and the other side said why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other side said goodbye: {} ({} s)", .0.reason, .0.retry_after_s)]
pub struct Away(pub GoAway);

/// One end of a session's stream, with its connection.
#[derive(Debug)]
pub struct Peer {
    /// The TLS exporter of this connection.
    pub exporter: [u8; 32],
    stream: Stream,
    deframer: Deframer,
}

#[derive(Debug)]
enum Stream {
    Quic {
        connection: Connection,
        send: SendStream,
        receive: RecvStream,
        // Holds the socket of a client.
        _endpoint: Endpoint,
    },
    Tcp(Box<TlsStream<TcpStream>>),
}

fn exporter_of(connection: &Connection) -> anyhow::Result<[u8; 32]> {
    let mut exporter = [0; 32];
    if connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").is_err() {
        bail!("the connection has no exporter");
    }
    Ok(exporter)
}

impl Peer {
    /// Connects from an address, under the protocol's ALPN, and opens the stream.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(line: &CollectorLine, source: IpAddr) -> anyhow::Result<Self> {
        let address = line.addresses.first().context("the line has no address")?;
        Self::connect_as(*address, source, ALPN).await
    }

    /// Connects under any ALPN.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect_as(
        address: SocketAddr,
        source: IpAddr,
        alpn: &[u8],
    ) -> anyhow::Result<Self> {
        let endpoint = Endpoint::client(SocketAddr::new(source, 0))?;
        let connecting =
            endpoint.connect_with(client_config(alpn)?, address, "collector.invalid")?;
        // A collector that was just killed does not answer; its successor is asked anew.
        let connection =
            timeout(Duration::from_secs(3), connecting).await.context("no answer")??;
        let (send, receive) = timeout(PATIENCE, connection.open_bi()).await??;
        let exporter = exporter_of(&connection)?;
        let stream = Stream::Quic { connection, send, receive, _endpoint: endpoint };
        Ok(Self { exporter, stream, deframer: Deframer::new(FRAME_TO_AGENT_MAX) })
    }

    /// Connects over TCP, under any ALPN; none is offered where it is empty.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect_tcp(
        address: SocketAddr,
        source: IpAddr,
        alpn: &[u8],
    ) -> anyhow::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        let connector = TlsConnector::from(Arc::new(tls_config(alpn)?));
        let connecting = async {
            let stream = socket.connect(address).await?;
            connector
                .connect(ServerName::try_from("collector.invalid")?, stream)
                .await
                .map_err(anyhow::Error::from)
        };
        let stream = timeout(PATIENCE, connecting).await.context("no answer")??;
        let (_, tls) = stream.get_ref();
        let context = Some(b"".as_slice());
        let exporter = tls.export_keying_material([0u8; 32], EXPORTER_LABEL, context)?;
        let stream = Stream::Tcp(Box::new(stream));
        Ok(Self { exporter, stream, deframer: Deframer::new(FRAME_TO_AGENT_MAX) })
    }

    /// Connects and shakes hands rightly, up to Ready.
    ///
    /// # Errors
    /// When the collector does not agree.
    pub async fn session(
        line: &CollectorLine,
        source: IpAddr,
        key: &SecretKey,
    ) -> anyhow::Result<(Self, Ready)> {
        let mut peer = Self::connect(line, source).await?;
        let ready = peer.prove(key).await?;
        Ok((peer, ready))
    }

    /// Shakes hands rightly, up to Ready.
    ///
    /// # Errors
    /// When the collector does not agree.
    pub async fn prove(&mut self, key: &SecretKey) -> anyhow::Result<Ready> {
        let transcript = self.greet().await?;
        self.send(&transcript.prove(key, 0)).await?;
        self.message().await
    }

    /// Writes bytes, whatever they are.
    ///
    /// # Errors
    /// When the stream is closed, or the other side does not read.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let writing = async {
            match &mut self.stream {
                Stream::Quic { send, .. } => send.write_all(bytes).await?,
                Stream::Tcp(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await?;
                }
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, writing).await.context("nobody reads")?
    }

    /// Writes a message.
    ///
    /// # Errors
    /// As [`Peer::send_bytes`].
    pub async fn send(&mut self, message: &impl Message) -> anyhow::Result<()> {
        self.send_bytes(&message.to_frame().to_bytes()).await
    }

    /// Sends a Hello and takes the Greeting: what both sides hash.
    ///
    /// # Errors
    /// When no Greeting comes.
    pub async fn greet(&mut self) -> anyhow::Result<Transcript> {
        let hello = hello()?.to_frame();
        self.send_bytes(&hello.to_bytes()).await?;
        let frame = self.frame(PATIENCE).await?;
        ensure!(frame.tag == Tag::Greeting as u8, "tag {} is no greeting", frame.tag);
        let greeting = Greeting::from_body(&frame.body)?;
        Ok(Transcript::new(self.exporter, &hello, &frame, greeting.nonce))
    }

    /// The next frame.
    ///
    /// # Errors
    /// When none comes within the time, or the stream ends.
    pub async fn frame(&mut self, within: Duration) -> anyhow::Result<Frame> {
        let reading = async {
            let mut buffer = [0; 4096];
            loop {
                if let Some(frame) = self.deframer.next_frame()? {
                    return anyhow::Ok(frame);
                }
                let length = match &mut self.stream {
                    Stream::Quic { receive, .. } => receive.read(&mut buffer).await?.unwrap_or(0),
                    Stream::Tcp(stream) => stream.read(&mut buffer).await?,
                };
                ensure!(length > 0, "the stream ended");
                self.deframer.push(buffer.get(..length).unwrap_or_default());
            }
        };
        timeout(within, reading).await.context("no frame in time")?
    }

    /// The next message of a kind; others are skipped.
    ///
    /// # Errors
    /// When none comes in time; [`Away`] when the other side says goodbye.
    pub async fn message<M: Message>(&mut self) -> anyhow::Result<M> {
        loop {
            let frame = self.frame(PATIENCE).await?;
            if frame.tag == M::TAG as u8 {
                return Ok(M::from_body(&frame.body)?);
            }
            if frame.tag == Tag::GoAway as u8 {
                bail!(Away(GoAway::from_body(&frame.body)?));
            }
        }
    }

    /// Ends a connection over QUIC; one over TCP ends when this is dropped.
    pub fn close(&self) {
        if let Stream::Quic { connection, .. } = &self.stream {
            connection.close(VarInt::from_u32(0), b"");
        }
    }

    /// Whether the other side has closed the connection, over QUIC.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(&self.stream, Stream::Quic { connection, .. } if connection.close_reason().is_some())
    }
}

/// The Hello of a scripted agent.
///
/// # Errors
/// Never: one version fits.
pub fn hello() -> anyhow::Result<Hello> {
    let versions = List::new(vec![PROTOCOL_VERSION])?;
    Ok(Hello { versions, probe_core: 1, catalogue_version: 1 })
}

/// A collector that follows a script, to see what an agent tells whom.
#[derive(Debug)]
pub struct FakeCollector {
    endpoint: Endpoint,
    transport: PublicKey,
}

impl FakeCollector {
    /// Listens on loopback with a fresh transport key.
    ///
    /// # Errors
    /// When there is no socket.
    pub fn bind() -> anyhow::Result<Self> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let transport: [u8; 32] = pair.public_key_raw().try_into()?;
        let names = vec!["collector.invalid".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)?.self_signed(&pair)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let mut tls =
            rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls)?;
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { endpoint, transport: PublicKey::from_bytes(transport) })
    }

    /// The line that pins an operator and leads here.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn line(&self, operator: PublicKey) -> anyhow::Result<CollectorLine> {
        Ok(CollectorLine { operator, addresses: vec![self.endpoint.local_addr()?] })
    }

    /// Waits for an agent, takes its Hello, and greets it with a delegation by this operator.
    ///
    /// # Errors
    /// When no agent comes in time.
    pub async fn greet(
        &self,
        operator: &SecretKey,
        serial: u64,
        now: Timestamp,
    ) -> anyhow::Result<(Peer, Transcript)> {
        let incoming = timeout(PATIENCE, self.endpoint.accept()).await.context("no agent came")?;
        let connection = incoming.context("the endpoint is closed")?.await?;
        let (send, receive) = timeout(PATIENCE, connection.accept_bi()).await??;
        let exporter = exporter_of(&connection)?;
        let deframer = Deframer::new(FRAME_TO_AGENT_MAX);
        let stream = Stream::Quic { connection, send, receive, _endpoint: self.endpoint.clone() };
        let mut peer = Peer { exporter, stream, deframer };
        let hello = peer.frame(PATIENCE).await?;
        ensure!(hello.tag == Tag::Hello as u8, "tag {} is no hello", hello.tag);
        let delegation = Delegation {
            role: KeyRole::Transport,
            key: self.transport,
            serial,
            not_after: now.plus_ms(86_400_000),
        };
        let nonce = Fixed([7; 16]);
        let greeting = Greeting {
            version: PROTOCOL_VERSION,
            country: Country::UNKNOWN,
            asn: 0,
            collector_time: now,
            nonce,
            pow_bits: 0,
            delegations: List::new(vec![delegation.sign(operator)])?,
        }
        .to_frame();
        peer.send_bytes(&greeting.to_bytes()).await?;
        let transcript = Transcript::new(exporter, &hello, &greeting, nonce);
        Ok((peer, transcript))
    }

    /// Takes the proof of a greeted agent and says Ready.
    ///
    /// # Errors
    /// When the proof does not come, or does not fit.
    pub async fn admit(
        &self,
        peer: &mut Peer,
        transcript: &Transcript,
        ready: &Ready,
    ) -> anyhow::Result<Prove> {
        let prove: Prove = peer.message().await?;
        transcript.verify(&prove)?;
        peer.send(ready).await?;
        Ok(prove)
    }
}

/// The built programs.
#[derive(Debug, Clone)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Finds them beside the test.
    ///
    /// # Errors
    /// When they were not built.
    pub fn find() -> anyhow::Result<Self> {
        let test = std::env::current_exe().context("where this test is")?;
        let dir = test.parent().context("a test is in a folder")?;
        let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
        for name in ["tocsin", "tocsin-collector"] {
            ensure!(
                dir.join(name).is_file(),
                "{} is not there: run `cargo build --workspace --bins` (with the profile of this \
                 test) first",
                dir.join(name).display()
            );
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The agent, with nothing of this environment.
    #[must_use]
    pub fn agent(&self) -> Command {
        self.command("tocsin")
    }

    /// Agrees for an agent with this state directory, as whoever installs it does.
    ///
    /// # Errors
    /// When `init` fails.
    pub fn agree(&self, state_dir: &Path) -> anyhow::Result<()> {
        let words = ["init", "--accept", "--json"];
        let output = self.agent().args(words).arg("--state-dir").arg(state_dir).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "init ended with {}: {told}", output.status);
        Ok(())
    }

    /// The collector, with nothing of this environment.
    #[must_use]
    pub fn collector(&self) -> Command {
        self.command("tocsin-collector")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.dir.join(name));
        command.env_clear();
        command
    }

    /// Makes a collector's keys; its line, with the addresses it would listen on.
    ///
    /// # Errors
    /// When `init` fails.
    pub fn init(&self, data_dir: &Path) -> anyhow::Result<CollectorLine> {
        let output =
            self.collector().arg("init").arg("--json").arg("--data-dir").arg(data_dir).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "init ended with {}: {told}", output.status);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        field(&json, "line")?.parse().context("the line of init")
    }

    /// Starts a collector on loopback and waits until it is ready. Its log goes to
    /// `collector.log` in its folder.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn serve(&self, serving: &Serving) -> anyhow::Result<CollectorProgram> {
        let log = serving.data_dir.join("collector.log");
        let mut command = self.collector();
        command.arg("serve").arg("--json").arg("--data-dir").arg(&serving.data_dir);
        command.arg("--listen").arg(serving.listen.to_string());
        command.args(["--web-listen", "127.0.0.1:0", "--operator-listen", "127.0.0.1:0"]);
        if let Some(config) = &serving.config {
            command.arg("--config").arg(config);
        }
        command.env("TOCSIN_LOG", serving.log);
        let errors = File::options().append(true).create(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut program = Program::start(command)?;
        let stdout = program.child.stdout.take().context("stdout is piped")?;
        let first = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line =
            timeout(PATIENCE, first).await.context("the collector is not ready in time")???;
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        let json: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("no JSON line; {}", told()))?;
        Ok(CollectorProgram {
            program,
            line: field(&json, "line")?.parse()?,
            web: field(&json, "web")?.parse()?,
            operator: field(&json, "operator")?.parse()?,
        })
    }
}

fn field<'a>(json: &'a serde_json::Value, name: &str) -> anyhow::Result<&'a str> {
    json.get(name).and_then(serde_json::Value::as_str).with_context(|| format!("no {name}: {json}"))
}

/// How a collector is started.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Its folder, with keys in it.
    pub data_dir: PathBuf,
    /// Its address, over UDP and TCP; port 0 for any.
    pub listen: SocketAddr,
    /// Its configuration, when it has one.
    pub config: Option<PathBuf>,
    /// How much it logs: `info`, `trace`.
    pub log: &'static str,
}

/// A program that runs; killed when it is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.spawn().with_context(|| format!("{command:?} did not start"))?;
        Ok(Self { child })
    }

    /// Kills it with SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop, by SIGTERM, and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        let id = self.child.id().to_string();
        ensure!(
            Command::new("kill").args(["-TERM", &id]).status()?.success(),
            "no kill -TERM {id}"
        );
        self.ended().await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let look = async || self.child.try_wait().transpose();
        Ok(eventually("the program ends", PATIENCE, look).await??)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            // Nothing is left to do when it cannot be waited for.
            self.child.wait().ok();
        }
    }
}

/// A collector program that is ready.
#[derive(Debug)]
pub struct CollectorProgram {
    /// The program.
    pub program: Program,
    /// Its line, with the port it got.
    pub line: CollectorLine,
    /// Its page.
    pub web: SocketAddr,
    /// Its metrics.
    pub operator: SocketAddr,
}

impl CollectorProgram {
    /// The value of a metric, by its name with labels; 0 when it is not told.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let text = get(self.operator, "/metrics").await?.body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?.unwrap_or(0))
    }

    /// Ends it as an operator would.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let ended = self.program.terminate().await?;
        ensure!(ended.success(), "SIGTERM ends it with {ended}");
        Ok(())
    }
}
