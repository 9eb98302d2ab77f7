//! `holdfast start`: a hub with a configuration of its own.

use clap::Args;

use super::ConfigSource;
use crate::config::Config;
use crate::run;
use holdfast_cli::exit_code::Failure;

/// Run a hub with a configuration file
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    source: ConfigSource,
    /// Stop when standard input closes, that is with the program that started this one
    #[arg(long)]
    until_stdin_closes: bool,
}

pub(super) fn run(args: &Start) -> Result<(), Failure> {
    let config = super::config::read(&args.source, Config::default())?;
    let has_tls_listener = [&config.listen.mqtts, &config.listen.amqps, &config.listen.https]
        .iter()
        .any(|l| !l.is_empty());
    if has_tls_listener && config.tls.certificate_file.is_none() {
        return Err(
            Failure::usage("tls.certificate_file is not set, and there are TLS listeners")
                .advise("name a certificate and its key, or try the hub with `holdfast dev`, which makes its own"),
        );
    }
    if args.until_stdin_closes {
        std::thread::Builder::new().name("stdin".to_owned()).spawn(|| {
            // However the input ends, the starter is gone.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = signal_hook::low_level::raise(signal_hook::consts::SIGTERM);
        })?;
    }
    let data = run::take_data_dir(config.data_dir(), config.cluster.is_on())?;
    run::run(&config, data, Box::new(|_| Ok(None)))
}
