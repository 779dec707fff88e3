//! What the broker itself counts, read from its metrics page.

use std::net::SocketAddr;

use anyhow::ensure;

/// The broker's count of connections that ended, whatever the reason.
const CLOSED: &str = "hawser_broker_closed_total";
const SESSIONS: &str = "hawser_broker_sessions";

const LINKS_UP: &str = "hawser_broker_link_up";
const KEYS_VERSION: &str = "hawser_broker_keys_version";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerCounts {
    pub closed: u64,
    pub sessions: u64,
}

/// What one shard needs before devices can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardState {
    pub links_up: u64,
    pub keys_version: u64,
}

pub async fn broker_counts(admin: SocketAddr) -> anyhow::Result<BrokerCounts> {
    let page = page(admin).await?;
    let sum = |name| Ok::<u64, anyhow::Error>(values(&page, name)?.iter().sum());
    Ok(BrokerCounts { closed: sum(CLOSED)?, sessions: sum(SESSIONS)? })
}

pub async fn broker_shards(admin: SocketAddr) -> anyhow::Result<Vec<ShardState>> {
    let page = page(admin).await?;
    let shards = values(&page, LINKS_UP)?.into_iter().zip(values(&page, KEYS_VERSION)?);
    Ok(shards.map(|(links_up, keys_version)| ShardState { links_up, keys_version }).collect())
}

async fn page(admin: SocketAddr) -> anyhow::Result<String> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client.get(format!("http://{admin}/metrics")).send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

/// The values of a metric in the Prometheus text format, one for each set of labels, in their
/// order on the page.
fn values(page: &str, name: &str) -> anyhow::Result<Vec<u64>> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok().map(|value| value as u64)
    };
    let values: Vec<u64> = page.lines().filter_map(value).collect();
    ensure!(!values.is_empty(), "the broker's metrics have no {name}");
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_counts_and_names_are_whole() {
        let text = "# HELP a_total x\n# TYPE a_total counter\n\
                    a_total{shard=\"0\",reason=\"bye\"} 3\na_total{shard=\"1\",reason=\"}\"} 4\n\
                    a_total_other 100\nb 7\n";
        assert_eq!(values(text, "a_total").unwrap(), [3, 4]);
        assert_eq!(values(text, "b").unwrap(), [7]);
        assert!(values(text, "c").is_err());
    }
}
