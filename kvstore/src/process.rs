//! What the kernel says about this process: memory and processor time, from `/proc`. Zero where it says
//! nothing.

use std::fs::read_to_string;

/// The kernel's clock ticks of a second, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub resident_bytes: u64,
    pub resident_bytes_peak: u64,
    pub user_s: f64,
    pub system_s: f64,
    pub children_user_s: f64,
    pub children_system_s: f64,
}

impl Usage {
    pub fn now() -> Usage {
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        let stat = read_to_string("/proc/self/stat").unwrap_or_default();
        parse(&status, &stat)
    }
}

fn parse(status: &str, stat: &str) -> Usage {
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    // The process's name may have spaces; what follows its bracket does not.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let seconds = |place: usize| {
        let ticks = fields.get(place).and_then(|field| field.parse::<f64>().ok());
        ticks.unwrap_or(0.0) / TICKS_PER_SECOND
    };
    Usage {
        resident_bytes: kib("VmRSS:") * 1024,
        resident_bytes_peak: kib("VmHWM:") * 1024,
        user_s: seconds(11),
        system_s: seconds(12),
        children_user_s: seconds(13),
        children_system_s: seconds(14),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 1 2 3 4 150 50 25 0 20 0 9";
        let usage = parse(status, stat);
        assert_eq!((usage.resident_bytes, usage.resident_bytes_peak), (1 << 20, 2 << 20));
        assert_eq!((usage.user_s, usage.system_s, usage.children_user_s), (1.5, 0.5, 0.25));
        assert_eq!(parse("", ""), Usage::default());
        assert!(Usage::now().resident_bytes > 0);
    }
}
