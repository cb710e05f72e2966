//! Commands that write packed files and are interrupted.

/// From now on SIGINT, SIGTERM and SIGHUP end the process as ever, but remove its unfinished files first.
#[cfg(unix)]
pub(crate) fn clean_up() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            let _abandoned = skipstone::format::abandon();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            // Not reached: the default of these signals is the end.
            std::process::abort();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn clean_up() -> std::io::Result<()> {
    Ok(())
}
