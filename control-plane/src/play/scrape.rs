//! What the broker itself counts, read from its metrics page.

use std::net::SocketAddr;

use anyhow::Context;

/// The broker's count of connections that ended, whatever the reason.
const CLOSED: &str = "hawser_broker_closed_total";
const SESSIONS: &str = "hawser_broker_sessions";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerCounts {
    pub closed: u64,
    pub sessions: u64,
}

pub async fn broker_counts(admin: SocketAddr) -> anyhow::Result<BrokerCounts> {
    let url = format!("http://{admin}/metrics");
    let client = reqwest::Client::builder().no_proxy().build()?;
    let text = client.get(&url).send().await?.error_for_status()?.text().await?;
    let sum = |name| sum(&text, name).with_context(|| format!("{url} has no {name}"));
    Ok(BrokerCounts { closed: sum(CLOSED)?, sessions: sum(SESSIONS)? })
}

/// The sum over all labels of a metric in the Prometheus text format.
fn sum(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value).map(|sum| sum as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_summed_and_names_are_whole() {
        let text = "# HELP a_total x\n# TYPE a_total counter\n\
                    a_total{shard=\"0\",reason=\"bye\"} 3\na_total{shard=\"1\",reason=\"}\"} 4\n\
                    a_total_other 100\nb 7\n";
        assert_eq!(sum(text, "a_total"), Some(7));
        assert_eq!(sum(text, "b"), Some(7));
        assert_eq!(sum(text, "c"), None);
    }
}
