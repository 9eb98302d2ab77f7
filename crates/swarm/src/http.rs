//! REST calls and metrics over one HTTP/1.1 connection, plain or TLS.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
pub use holdfast_client::http::Answer;
use holdfast_client::http::Connection;
use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use tokio::net::TcpStream;

use crate::target::{Tls, resolve};

/// An open connection; requests go one after the other.
pub struct Client(Connection);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When the connection or the TLS handshake fails.
    pub async fn connect(address: SocketAddr, host: &str, tls: Option<&Tls>) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let connection = match tls {
            None => Connection::open(stream, host).await?,
            Some(tls) => Connection::open(tls.connector.connect(tls.server.clone(), stream).await?, host).await?,
        };
        Ok(Self(connection))
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes)> {
        let authorization = authorization.map(|value| (header::AUTHORIZATION, value));
        self.request_with(method, path, authorization.as_slice(), body).await
    }

    /// As [`Client::request`], with any headers.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn request_with(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes)> {
        let answer = self.exchange(method, path, headers, body).await?;
        Ok((answer.status, answer.body))
    }

    /// As [`Client::request_with`], with the headers of the answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Answer> {
        self.0.request(method, path, headers, body).await
    }
}

/// The sum of all series of `metric` at a Prometheus address; `None` when it has no such metric.
///
/// # Errors
/// When the address is not plain `http://` or does not answer.
pub async fn read_metric(url: &str, metric: &str) -> Result<Option<f64>> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} is not http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
    let mut client = Client::connect(resolve(host)?, host, None).await?;
    let (status, body) = client
        .request(Method::GET, &format!("/{path}"), None, Vec::new())
        .await?;
    if status != StatusCode::OK {
        bail!("{url} answers {status}");
    }
    Ok(sum_of(&String::from_utf8_lossy(&body), metric))
}

fn sum_of(text: &str, metric: &str) -> Option<f64> {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    series.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_metric_are_added_up_and_its_namesakes_are_not() {
        let text = "# TYPE a_total counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3.5 1700000000\na_total_more 9\n";
        assert_eq!(sum_of(text, "a_total"), Some(5.5));
        assert_eq!(sum_of("a_total 7\n", "a_total"), Some(7.0));
        assert_eq!(sum_of(text, "b_total"), None);
    }
}
