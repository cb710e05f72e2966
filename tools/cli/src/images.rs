//! Photographs on disk: which there are, and each as a network's input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use skipstone::Recipe;
use skipstone::graph::{Port, Shape};
use skipstone::image::{Limits, decode};

use crate::units;

/// Larger image files are not read.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// An image file, or why it cannot be read.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    problem: Option<String>,
}

/// Files as they are given, and the images in folders, in order.
pub(crate) fn list(paths: &[PathBuf]) -> Vec<Source> {
    let mut sources = vec![];
    for path in paths {
        let before = sources.len();
        if !path.is_dir() {
            sources.push(Source { path: path.clone(), problem: None });
        } else if let Err(error) = list_folder(path, &mut sources) {
            sources.push(Source { path: path.clone(), problem: Some(error.to_string()) });
        } else if sources.len() == before {
            let problem = Some("no JPEG or PNG files in this folder".to_owned());
            sources.push(Source { path: path.clone(), problem });
        }
    }
    sources
}

pub(crate) fn list_folder(folder: &Path, sources: &mut Vec<Source>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        // A folder behind a link is left out: it could be this one.
        if entry.file_type()?.is_dir() {
            list_folder(&path, sources)?;
        } else if ["jpg", "jpeg", "png"].iter().any(|e| extension.eq_ignore_ascii_case(e)) {
            sources.push(Source { path, problem: None });
        }
    }
    Ok(())
}

/// Reads an image as the network's input of this shape.
pub(crate) fn read(
    source: &Source,
    recipe: &Recipe,
    port: &Port,
    shape: Shape,
) -> anyhow::Result<Vec<f32>> {
    if let Some(problem) = &source.problem {
        bail!("{problem}");
    }
    let bytes = if source.path == Path::new("-") {
        read_limited(std::io::stdin())?
    } else {
        read_limited(fs::File::open(&source.path)?)?
    };
    let pixels = recipe.prepare(&decode(&bytes, &Limits::default())?)?;
    ensure!(
        (pixels.height(), pixels.width()) == (shape.h, shape.w),
        "the recipe makes {}x{} of this image, the network takes {}x{}",
        pixels.height(),
        pixels.width(),
        shape.h,
        shape.w
    );
    let mut input = vec![0.0; shape.len()];
    recipe.write_tensor(&pixels, &port.axes, &mut input)?;
    Ok(input)
}

fn read_limited(file: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![];
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_FILE_BYTES, "larger than {}", units::bytes(MAX_FILE_BYTES));
    Ok(bytes)
}
