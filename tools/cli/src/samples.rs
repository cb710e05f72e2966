//! Inputs for a network with one image as input: photographs in a folder, or an array.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use skipstone::graph::{Port, Shape};
use skipstone::{Model, Recipe};

use crate::images::{Source, list_folder, read};
use crate::npy::{self, Array};

/// Inputs, read one at a time.
pub(crate) struct Samples {
    port: Port,
    shape: Shape,
    kind: Kind,
}

enum Kind {
    Photographs(Vec<Source>, Box<Recipe>),
    Array(PathBuf, Array),
}

impl Samples {
    /// What is at `path`, for `model`.
    pub(crate) fn open(path: &Path, model: &Model) -> anyhow::Result<Self> {
        let [port] = model.graph().inputs.as_slice() else {
            bail!("the model has {} inputs, expected one image", model.graph().inputs.len());
        };
        let (port, mut shape) = (port.clone(), port.shape);
        let kind = if path.is_dir() {
            let Some(recipe) = model.recipe() else {
                bail!(
                    "{}: the model has no preprocessing recipe for photographs; convert it with \
                     --recipe, or give an .npy array",
                    path.display()
                );
            };
            if let Some([h, w]) = recipe.output_size() {
                shape = Shape { h, w, ..shape };
            }
            let mut sources = vec![];
            list_folder(path, &mut sources)?;
            ensure!(!sources.is_empty(), "{}: no JPEG or PNG files in this folder", path.display());
            Kind::Photographs(sources, Box::new(recipe.clone()))
        } else {
            let array = npy::read(path)?;
            let expected = port.axes.dims(1, shape);
            let fits = array.shape.len() == expected.len() && array.shape[1..] == expected[1..];
            let (file, found) = (path.display(), &array.shape);
            ensure!(fits, "{file}: shape {found:?}, expected [N, ...] of {expected:?}");
            ensure!(array.shape[0] > 0, "{file}: no images");
            Kind::Array(path.to_owned(), array)
        };
        Ok(Self { port, shape, kind })
    }

    pub(crate) fn len(&self) -> usize {
        match &self.kind {
            Kind::Photographs(sources, _) => sources.len(),
            Kind::Array(_, array) => array.shape[0],
        }
    }

    /// Height and width of the images.
    pub(crate) fn size(&self) -> [usize; 2] {
        [self.shape.h, self.shape.w]
    }

    /// The file of each photograph; none of an array.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let sources = match &self.kind {
            Kind::Photographs(sources, _) => sources.as_slice(),
            Kind::Array(..) => &[],
        };
        sources.iter().map(|s| s.path.as_path())
    }

    /// What messages call input `i`.
    pub(crate) fn name(&self, i: usize) -> String {
        match &self.kind {
            Kind::Photographs(sources, _) => sources[i].path.display().to_string(),
            Kind::Array(path, _) => format!("{}[{i}]", path.display()),
        }
    }

    /// Input `i`.
    pub(crate) fn get(&self, i: usize) -> anyhow::Result<Vec<f32>> {
        match &self.kind {
            Kind::Photographs(sources, recipe) => {
                let path = sources[i].path.display();
                read(&sources[i], recipe, &self.port, self.shape)
                    .map_err(|e| anyhow::anyhow!("{path}: {e:#}"))
            }
            Kind::Array(_, array) => {
                let len = self.shape.len();
                Ok(array.data[i * len..(i + 1) * len].to_vec())
            }
        }
    }
}
