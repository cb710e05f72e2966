//! Opening what others name.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a file for reading and tells its length; refuses what is not a regular file, and does so
/// before a pipe could block.
pub(crate) fn open_regular(path: &Path) -> Result<(File, usize)> {
    let open = |e| Error::io(path, "open", e);
    let check = |regular: bool| {
        if regular { Ok(()) } else { Err(Error::invalid("not a regular file").in_file(path)) }
    };
    check(std::fs::metadata(path).map_err(open)?.is_file())?;
    let file = File::open(path).map_err(open)?;
    let metadata = file.metadata().map_err(open)?;
    check(metadata.is_file())?;
    let len = usize::try_from(metadata.len());
    Ok((file, len.map_err(|e| Error::format("larger than the address space").caused_by(e))?))
}
