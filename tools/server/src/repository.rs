//! The models being served, and the files they come from.
//!
//! Files are told apart by their identity. A new file is opened and verified beside the old model, which
//! serves until the new one is ready, and goes on if the new one is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::model::{Execution, Served, Source};
use crate::stats::AllStats;
use crate::watch::Place;

/// What is to be served.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Models by name. A folder stands for the one packed file in it.
    pub models: Vec<(String, Source)>,
    /// A folder of `NAME.skip`, or of `NAME/VERSION/FILE.skip`, of which the highest version is served.
    pub repository: Option<PathBuf>,
}

impl Sources {
    /// Where there is anything that may change.
    pub(crate) fn places(&self) -> Vec<Place> {
        let files = self.models.iter().filter_map(|(_, source)| match source {
            Source::File(path) if path.is_dir() => Some(Place::Folder(path.clone(), 0)),
            Source::File(path) => Some(Place::File(path.clone())),
            Source::Builtin(_) => None,
        });
        let folder = self.repository.iter().map(|path| Place::Folder(path.clone(), 2));
        files.chain(folder).collect()
    }
}

/// Longest name of a model.
const MAX_NAME_LEN: usize = 128;
/// How often a replaced model is looked at until its last request has ended.
const RETIRE_POLL: Duration = Duration::from_millis(20);

/// Models by name.
pub(crate) struct Repository {
    sources: Sources,
    execution: Execution,
    served: RwLock<BTreeMap<String, Arc<Served>>>,
    /// By name: the file that was last looked at, and why it is not the one that serves.
    seen: Mutex<BTreeMap<String, Seen>>,
    stats: AllStats,
}

struct Seen {
    file: Found,
    refusal: Option<String>,
}

/// A model file and what tells it from another one of the same name.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    version: String,
    path: PathBuf,
    identity: Identity,
}

#[derive(Clone, Debug, PartialEq)]
struct Identity {
    len: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

/// A model's place in the index of the repository.
pub(crate) struct IndexEntry {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) ready: bool,
    pub(crate) takes_images: bool,
    pub(crate) reason: String,
}

impl Repository {
    pub(crate) fn new(sources: Sources, execution: Execution) -> Self {
        Self {
            sources,
            execution,
            served: RwLock::default(),
            seen: Mutex::default(),
            stats: AllStats::default(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Served>> {
        self.read().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Served>> {
        self.read().values().cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Served>>> {
        self.served.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, name: &str, new: Option<Arc<Served>>) -> Option<Arc<Served>> {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        match new {
            Some(new) => served.insert(name.to_owned(), new),
            None => served.remove(name),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index(&self) -> Vec<IndexEntry> {
        let (served, seen) = (self.read(), self.seen());
        let mut names: Vec<&String> = served.keys().chain(seen.keys()).collect();
        names.sort();
        names.dedup();
        let entry = |name: &String| {
            let (served, seen) = (served.get(name), seen.get(name));
            let version = served.map(|s| s.version.clone());
            IndexEntry {
                name: name.clone(),
                version: version.or(seen.map(|s| s.file.version.clone())).unwrap_or_default(),
                ready: served.is_some(),
                takes_images: served.is_some_and(|s| s.takes_images()),
                reason: seen.and_then(|s| s.refusal.clone()).unwrap_or_default(),
            }
        };
        names.into_iter().map(entry).collect()
    }

    /// Loads everything for the first time.
    ///
    /// # Errors
    /// The first model that cannot be served; no model at all.
    pub(crate) fn load(&self, metrics: &Metrics) -> anyhow::Result<()> {
        for (name, source) in &self.sources.models {
            if let Source::Builtin(_) = source {
                self.put(name, "1", source, metrics)?;
            }
        }
        for (name, file) in self.find()? {
            self.put(&name, &file.version, &Source::File(file.path.clone()), metrics)?;
            self.seen().insert(name, Seen { file, refusal: None });
        }
        ensure!(!self.read().is_empty(), "there is no model to serve");
        Ok(())
    }

    fn put(
        &self,
        name: &str,
        version: &str,
        source: &Source,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let stats = self.stats.of(name);
        let new = Arc::new(Served::load(name, version, source, &self.execution, &stats)?);
        let report = new.session.report();
        info!(
            model = name,
            version,
            hash = &new.hash()[..16],
            isa = %report.runtime.isa,
            streams = report.streams,
            threads = report.runtime.threads,
            max_batch = report.batch_sizes.last(),
            places = new.capacity,
            "model loaded"
        );
        metrics.reloaded(name, true);
        retire(self.replace(name, Some(new)));
        Ok(())
    }

    /// Looks at all files once; loads what is new, drops what is gone.
    pub(crate) fn refresh(&self, metrics: &Metrics) {
        let found = match self.find() {
            Ok(found) => found,
            Err(error) => {
                // What is served goes on, whatever became of the files.
                warn!("cannot look for models: {error:#}");
                return;
            }
        };
        for (name, file) in &found {
            let is_new = self.seen().get(name).is_none_or(|seen| seen.file != *file);
            if is_new {
                self.reload(name, file, metrics);
            }
        }
        self.drop_missing(&found);
    }

    fn reload(&self, name: &str, file: &Found, metrics: &Metrics) {
        let source = Source::File(file.path.clone());
        let refusal = self.put(name, &file.version, &source, metrics).err().map(|error| {
            let old = if self.get(name).is_some() { "; the old one goes on" } else { "" };
            warn!(model = name, "new file refused{old}: {error:#}");
            metrics.reloaded(name, false);
            format!("new file refused{old}: {error:#}")
        });
        self.seen().insert(name.to_owned(), Seen { file: file.clone(), refusal });
    }

    /// Models of the repository folder whose files are gone. A model named by itself stays: the gap
    /// between two renames is not its end.
    fn drop_missing(&self, found: &BTreeMap<String, Found>) {
        let named = |name: &String| self.sources.models.iter().any(|(n, _)| n == name);
        let known: Vec<String> = self.seen().keys().cloned().collect();
        for name in known.iter().filter(|name| !found.contains_key(*name) && !named(name)) {
            self.seen().remove(name);
            retire(self.replace(name, None));
            info!(model = name, "model dropped: its file is gone");
        }
    }

    /// The files as they are now.
    fn find(&self) -> anyhow::Result<BTreeMap<String, Found>> {
        let mut found = BTreeMap::new();
        for (name, source) in &self.sources.models {
            let Source::File(path) = source else { continue };
            // A file that is missing for a moment is reported when it is opened.
            match find_model(path) {
                Ok(file) => found.insert(name.clone(), file),
                Err(error) if self.get(name).is_none() => return Err(error),
                Err(_) => None,
            };
        }
        if let Some(folder) = &self.sources.repository {
            for (name, file) in find_in_folder(folder)? {
                if found.insert(name.clone(), file).is_some() {
                    bail!("model '{name}' is named twice");
                }
            }
        }
        Ok(found)
    }
}

/// Waits for a replaced model's last request, then ends its threads.
fn retire(old: Option<Arc<Served>>) {
    let Some(mut old) = old else { return };
    let wait = move || {
        loop {
            match Arc::try_unwrap(old) {
                Ok(last) => return drop(last),
                Err(shared) => old = shared,
            }
            thread::sleep(RETIRE_POLL);
        }
    };
    // If there is no thread for it, the last request's thread ends the model.
    let _ = thread::Builder::new().name("retire".to_owned()).spawn(wait);
}

/// Checks a model's name: it is part of paths and metrics.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits = (1..=MAX_NAME_LEN).contains(&name.len());
    ensure!(
        fits && name.chars().all(ok),
        "'{name}' is no model name: expected 1 to {MAX_NAME_LEN} letters, digits, '.', '_' or '-'"
    );
    Ok(())
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "skip")
}

fn identify(path: &Path, version: &str) -> anyhow::Result<Found> {
    let meta = fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&meta);
    #[cfg(not(unix))]
    let inode = 0;
    let identity = Identity { len: meta.len(), modified: meta.modified().ok(), inode };
    Ok(Found { version: version.to_owned(), path: path.to_owned(), identity })
}

/// The file that a path of `--model` stands for.
fn find_model(path: &Path) -> anyhow::Result<Found> {
    if !path.is_dir() {
        return identify(path, "1");
    }
    match packed_files(path)?.as_slice() {
        [file] => identify(file, "1"),
        files => bail!("{}: {} .skip files, expected one", path.display(), files.len()),
    }
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", folder.display());
    let entries = fs::read_dir(folder).with_context(context)?;
    let mut paths = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn packed_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| is_packed(path)).collect())
}

fn find_in_folder(folder: &Path) -> anyhow::Result<Vec<(String, Found)>> {
    let mut found = vec![];
    for path in entries(folder)? {
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let name = stem.unwrap_or_default().to_string_lossy().into_owned();
        let file = if path.is_dir() {
            highest_version(&path)?
        } else if is_packed(&path) {
            Some(identify(&path, "1")?)
        } else {
            None
        };
        if let Some(file) = file {
            check_name(&name).with_context(|| path.display().to_string())?;
            found.push((name, file));
        }
    }
    Ok(found)
}

/// The packed file in the folder with the highest number for a name.
fn highest_version(folder: &Path) -> anyhow::Result<Option<Found>> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
    let versions = entries(folder)?.into_iter().filter(|path| path.is_dir());
    let mut versions: Vec<_> = versions.filter_map(|path| Some((number(&path)?, path))).collect();
    versions.sort();
    for (number, path) in versions.iter().rev() {
        if let [file, ..] = packed_files(path)?.as_slice() {
            return identify(file, &number.to_string()).map(Some);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["resnet50", "a", "A-1_b.c"] {
            check_name(good).expect(good);
        }
        for bad in ["", "a/b", "a b", "ä", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
