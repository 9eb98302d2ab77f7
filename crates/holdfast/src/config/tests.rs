use holdfast_config::{Loaded, Problems, Sources, load, page};

use super::*;
use holdfast_model::ByteSize;

fn check(text: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<Config, Problems> {
    checked(text, environment, set).map(|loaded| loaded.config)
}

fn checked(text: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<Loaded<Config>, Problems> {
    load(
        Config::default(),
        &Sources {
            file: Some((Path::new("hub.toml"), text)),
            environment: environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        },
    )
}

fn refused(text: &str, expected: &str) {
    let problems = check(text, &[], &[]).expect_err(text);
    assert_eq!(problems.to_string(), expected, "for {text:?}");
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let text = "[hub]\nhost = 'file.example'\ncores = 1\npartitions = 8\n";
    let config = check(
        text,
        &[
            ("HOLDFAST_HUB_CORES", "2"),
            ("HOLDFAST_HUB_PARTITIONS", "16"),
            ("PATH", "/bin"),
        ],
        &["hub.partitions=32"],
    )
    .unwrap();
    assert_eq!(
        (config.hub.host.as_str(), config.hub.cores, config.hub.partitions),
        ("file.example", 2, 32)
    );
}

#[test]
fn lists_durations_and_sizes_are_read_from_file_and_environment() {
    let config = check(
        "[listen]\nmqtts = [\"10.0.0.1:8883\", \"[::1]:8883\"]\n[audit]\nmax_file_size = \"1MiB\"\n",
        &[
            ("HOLDFAST_LISTEN_AMQPS", "127.0.0.1:1, 127.0.0.1:2"),
            ("HOLDFAST_OPS_DRAIN_TIMEOUT", "3s"),
        ],
        &["listen.mqtt="],
    )
    .unwrap();
    assert_eq!(config.listen.mqtts.len(), 2);
    assert_eq!(config.listen.amqps.len(), 2);
    assert!(config.listen.mqtt.is_empty());
    assert_eq!(config.audit.max_file_size, ByteSize::mib(1));
    assert_eq!(config.ops.drain_timeout.as_secs(), 3);
}

#[test]
fn every_kind_of_mistake_names_its_line_and_what_would_be_right() {
    for (text, expected) in [
        (
            "[hub]\n\nhots = 'x'\n",
            "hub.toml:3: unknown key hub.hots; did you mean hub.host?",
        ),
        (
            "[hbu]\nhost = 'x'\n",
            "hub.toml:2: unknown key hbu.host; did you mean hub.host?",
        ),
        ("host = 'x'\n", "hub.toml:1: unknown key host; did you mean hub.host?"),
        (
            "[zebra]\nstripes = 4\n",
            "hub.toml:2: unknown key zebra.stripes; `holdfast config default` lists all keys",
        ),
        (
            "[zebra]\n",
            "hub.toml:1: unknown key zebra; `holdfast config default` lists all keys",
        ),
        (
            "[hub]\ncores = 'two'\n",
            "hub.toml:2: hub.cores: must be a whole number from 0 to 65535, found \"two\"",
        ),
        (
            "[hub]\ncores = -1\n",
            "hub.toml:2: hub.cores: must be a whole number from 0 to 65535, found -1",
        ),
        (
            "[hub]\ncores = 1.5\n",
            "hub.toml:2: hub.cores: must be a whole number from 0 to 65535, found 1.5",
        ),
        (
            "[hub]\nhost = 7\n",
            "hub.toml:2: hub.host: must be text in quotes, found 7",
        ),
        (
            "[hub]\nhost = 'a b'\n",
            "hub.toml:2: hub.host: \"a b\" is no host name; write a DNS name or an IP, without port",
        ),
        (
            "[hub]\npartitions = 3\n",
            "hub.toml:2: hub.partitions: must be 4 to 128, found 3",
        ),
        (
            "[listen]\nmqtts = '0.0.0.0:8883'\n",
            "hub.toml:2: listen.mqtts: must be a list in square brackets, found \"0.0.0.0:8883\"",
        ),
        (
            "[listen]\nmqtts = ['8883']\n",
            "hub.toml:2: listen.mqtts: \"8883\" is no address; write an IP and a port, such as \"0.0.0.0:8883\"",
        ),
        (
            "[ops]\ndrain_timeout = 20\n",
            "hub.toml:2: ops.drain_timeout: must be a duration such as \"10s\", found 20",
        ),
        (
            "[log]\nformat = 'xml'\n",
            "hub.toml:2: log.format: must be \"text\" or \"json\", found \"xml\"",
        ),
        (
            "[cluster]\nrole = 'leader'\n",
            "hub.toml:2: cluster.role: must be \"core\" or \"gateway\", found \"leader\"",
        ),
        (
            "[tls]\nkey_file = 'k.pem'\n",
            "hub.toml:2: tls.key_file: a certificate and its key go together; the other one is not set",
        ),
        (
            "[tls]\nresumption = 'ids'\n",
            "hub.toml:2: tls.resumption: must be \"off\" or \"tickets\", found \"ids\"",
        ),
        (
            "[tls]\nalternatives = ['old.example=old.pem']\n",
            "hub.toml:2: tls.alternatives: must be HOST=CERTIFICATE_FILE:KEY_FILE, found \"old.example=old.pem\"",
        ),
        (
            "[tls]\nalternatives = ['old.example=old.pem:old.key']\n",
            "hub.toml:2: tls.alternatives: needs tls.certificate_file: clients of other names, and without a name, get that one",
        ),
    ] {
        refused(text, expected);
    }
}

#[test]
fn text_that_is_no_toml_names_the_line() {
    for text in [
        "[hub]\nhost = \n",
        "[hub]\nhost 'x'\n",
        "[hub]\nhost = 'x'\n[hub]\n",
        "[hub]\nhost = 'a'\nhost = 'b'\n",
    ] {
        let problems = check(text, &[], &[]).expect_err(text).to_string();
        assert!(problems.starts_with("hub.toml:"), "{problems}");
    }
    assert!(
        check("[hub]\nhost = 'a'\nhost = 'b'\n", &[], &[])
            .unwrap_err()
            .to_string()
            .starts_with("hub.toml:3:")
    );
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let problems = check(
        "[hub]\nhots = 1\ncores = 'x'\n",
        &[("HOLDFAST_HUB_CROES", "1")],
        &["nonsense"],
    )
    .unwrap_err();
    assert_eq!(problems.0.len(), 4, "{problems}");
    assert_eq!(
        problems.0[2],
        "environment variable HOLDFAST_HUB_CROES: no key has this name; did you mean HOLDFAST_HUB_CORES?"
    );
    assert_eq!(problems.0[3], "--set nonsense: write it as section.key=value");
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_of_our_name_are_not_ours() {
    for name in [
        "SERVICE_HOST",
        "PORT_8883_TCP",
        "OPS_PORT",
        "OPS_SERVICE_PORT_HTTP",
        "OPS_PORT_9600_TCP_ADDR",
    ] {
        assert!(check("", &[(&format!("HOLDFAST_{name}"), "x")], &[]).is_ok(), "{name}");
    }
}

#[test]
fn waiting_connects_leave_room_for_the_calls_that_keep_the_other_sessions_alive() {
    let set = |count: u32| check("", &[], &[&format!("device_hub.max_waiting_connects={count}")]);
    assert!(set(15_360).is_ok());
    let refused = set(15_361).unwrap_err().to_string();
    assert!(refused.contains("must be at most 15360, found 15361"), "{refused}");
    let refused = check("", &[], &["device_hub.drain_rate=0"]).unwrap_err().to_string();
    assert!(refused.contains("must be greater than 0"), "{refused}");
}

#[test]
fn every_reader_of_a_key_refuses_its_range_and_its_relations() {
    for (text, expected) in [
        ("[audit]\nmax_files = 0\n", "audit.max_files: must be at least 1"),
        (
            "[tls]\nreload_interval = '1ms'\n",
            "tls.reload_interval: must be at least 100 ms",
        ),
        (
            "[cluster]\nreload_interval = '1ms'\n",
            "cluster.reload_interval: must be at least 100 ms",
        ),
        ("[cluster]\nqueue = '0B'\n", "cluster.queue: must be greater than 0"),
        ("[cluster]\ntick = '1ms'\n", "cluster.tick: must be 500ms to 60s"),
        (
            "[cluster]\nzone = 'a b'\n",
            "cluster.zone: must be at most 63 ASCII letters, digits and - . _",
        ),
        (
            "[cluster]\nreplication_factor = 2\n",
            "cluster.replication_factor: must be 1 or 3, found 2",
        ),
        (
            "[cluster]\njoin = ['a:1']\n",
            "cluster.join: needs cluster.listen: the others must reach this node too",
        ),
        ("[mqtt]\nmax_output = '0B'\n", "mqtt.max_output: must be greater than 0"),
        ("[events]\noutput = '0B'\n", "events.output: must be greater than 0"),
        (
            "[rest]\nmax_requests = 0\n",
            "rest.max_requests: must be between 1 and 100000",
        ),
        (
            "[storage]\nmax_replay = '1MiB'\n",
            "storage.max_replay: must not be smaller than storage.write_buffer",
        ),
        (
            "[consensus]\nelection_timeout_min = '300ms'\n",
            "consensus.election_timeout_min: must be at least twice consensus.heartbeat",
        ),
        (
            "[registry]\nsession_grace = '1ms'\n",
            "registry.session_grace: must not be shorter than registry.max_staleness",
        ),
        (
            "[partition]\nretention_size = '1B'\n",
            "partition.retention_size: must be 0 (no limit) or at least 1MiB",
        ),
    ] {
        refused(text, &format!("hub.toml:2: {expected}"));
    }
}

#[test]
fn a_node_of_a_cluster_names_its_certificate_and_an_address_for_the_others() {
    let problems = check("[cluster]\nlisten = ['0.0.0.0:9700']\njoin = ['node1']\n", &[], &[]).unwrap_err();
    let needed = "is needed with cluster.listen: nodes trust each other by certificate alone";
    assert_eq!(
        problems.0,
        [
            format!("default value: cluster.certificate_file: {needed}"),
            format!("default value: cluster.key_file: {needed}"),
            format!("default value: cluster.ca_file: {needed}"),
            "default value: cluster.advertise: is needed when cluster.listen is an unspecified address: a name or IP \
             that the others reach"
                .to_owned(),
            "hub.toml:3: cluster.join: must be host:port, found \"node1\"".to_owned(),
        ]
    );
}

#[test]
fn a_renamed_key_is_accepted_by_its_old_name_with_a_warning() {
    let loaded = checked(
        "[cluster]\nsettle = '2s'\nunder_way = '8MiB'\n",
        &[("HOLDFAST_CLUSTER_VOTER_PATIENCE", "20s")],
        &["cluster.retry_pause=3s"],
    )
    .unwrap();
    let Config { control, peers, .. } = loaded.config;
    assert_eq!(control.leader_return_delay.get().as_secs(), 2);
    assert_eq!(control.voter_grace.get().as_secs(), 20);
    assert_eq!(peers.max_in_flight, ByteSize::mib(8));
    assert_eq!(peers.max_connect_backoff.as_secs(), 3);
    let end = "the next version refuses the old name";
    assert_eq!(
        loaded.warnings,
        [
            format!("hub.toml:2: cluster.settle is now called cluster.leader_return_delay; {end}"),
            format!("hub.toml:3: cluster.under_way is now called cluster.max_in_flight; {end}"),
            format!(
                "environment variable HOLDFAST_CLUSTER_VOTER_PATIENCE: HOLDFAST_CLUSTER_VOTER_PATIENCE is now called \
                 HOLDFAST_CLUSTER_VOTER_GRACE; {end}"
            ),
            format!(
                "--set cluster.retry_pause=3s: cluster.retry_pause is now called cluster.max_connect_backoff; {end}"
            ),
        ]
    );
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
fn configuration_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let wanted = page::reference(&mut Config::default());
    if std::env::var("HOLDFAST_REWRITE").is_ok() {
        std::fs::write(&path, &wanted).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == wanted,
        "docs/configuration.md is stale; rewrite it: HOLDFAST_REWRITE=1 cargo test -p holdfast configuration_page"
    );
}

#[test]
fn the_default_file_uncommented_gives_the_defaults() {
    let text: String = page::default_file(&mut Config::default())
        .lines()
        .filter(|line| !line.contains(" = …"))
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let mut config = check(&text, &[], &[]).unwrap();
    assert_eq!(page::effective(&mut config), page::effective(&mut Config::default()));
}

#[test]
fn every_key_has_a_meaning_and_a_name_of_its_own() {
    let mut config = Config::default();
    let mut names = Vec::new();
    for section in config.sections() {
        for key in section.keys() {
            assert!(key.meaning().ends_with('.'), "{} has no sentence", key.path());
            names.extend([Some(key.path()), key.old_path()].into_iter().flatten());
        }
    }
    let variables: std::collections::BTreeSet<_> = names.iter().map(|name| name.replace('.', "_")).collect();
    assert_eq!(variables.len(), names.len());
}
