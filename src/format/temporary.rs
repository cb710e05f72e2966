//! Files that appear complete or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The temporary files of this process.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    // The list is whole between any two of its operations.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, no file can be begun, finished or given up: see [`abandon`].
#[must_use = "writes go on once it is dropped"]
pub struct Abandoned {
    _list: MutexGuard<'static, Vec<PathBuf>>,
}

/// Removes the temporary files of all writes under way, which then fail. For the thread that ends the
/// process on a signal: nothing is left behind if it does so while it holds the result. (Not for a
/// signal handler itself: it takes a lock.)
pub fn abandon() -> Abandoned {
    let mut list = unfinished();
    for path in list.drain(..) {
        // There is nobody to tell.
        let _ = fs::remove_file(path);
    }
    Abandoned { _list: list }
}

/// A file that is removed unless it is renamed.
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// A new file in the folder of `target`.
    pub(super) fn create_beside(target: &Path) -> io::Result<(Self, File)> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let mut list = unfinished();
        loop {
            let n = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = target.with_file_name(format!(".{name}.{}-{n}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    list.push(path.clone());
                    return Ok((Self(path), file));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Makes it `target`.
    pub(super) fn rename(self, target: &Path) -> io::Result<()> {
        {
            let mut list = unfinished();
            fs::rename(&self.0, target)?;
            list.retain(|path| *path != self.0);
        }
        // The rename itself survives a crash only once the folder is written.
        #[cfg(unix)]
        {
            let folder = target.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let mut list = unfinished();
        let before = list.len();
        list.retain(|path| *path != self.0);
        if list.len() < before {
            // There is nobody to tell; the error that led here is on its way.
            let _ = fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_file_is_gone_and_cannot_be_finished() {
        let folder = std::env::temp_dir().join(format!("skipstone-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let target = folder.join("x.skip");
        let count = || fs::read_dir(&folder).unwrap().count();

        let (temporary, _file) = Temporary::create_beside(&target).unwrap();
        assert_eq!(count(), 1);
        drop(abandon());
        assert_eq!(count(), 0);
        assert_eq!(temporary.rename(&target).unwrap_err().kind(), io::ErrorKind::NotFound);

        let (temporary, _file) = Temporary::create_beside(&target).unwrap();
        temporary.rename(&target).unwrap();
        drop(abandon());
        assert!(target.exists());
        drop(Temporary::create_beside(&target).unwrap());
        assert_eq!(count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
