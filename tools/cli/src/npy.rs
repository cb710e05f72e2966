//! NumPy's `.npy` files to and from dense f32 arrays.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use half::f16;
use npyz::{DType, Deserialize, NpyFile, Order, TypeChar, WriterBuilder};

/// A dense array in C order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

/// Reads an array of numbers; converts them to f32.
pub(crate) fn read(path: &Path) -> anyhow::Result<Array> {
    read_array(path).with_context(|| path.display().to_string())
}

fn read_array(path: &Path) -> anyhow::Result<Array> {
    let file = File::open(path).context("cannot open")?;
    let file_len = file.metadata().context("cannot read")?.len();
    let array = NpyFile::new(BufReader::new(file)).context("not an npy file")?;
    let DType::Plain(element) = array.dtype() else {
        bail!("the array's elements are structures, expected numbers");
    };
    // The header is not to be trusted with an allocation.
    let sizes = array.shape().iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let size = sizes.and_then(|n| n.checked_mul(element.size_field()));
    ensure!(size.is_some_and(|n| n <= file_len), "truncated: shape {:?}", array.shape());
    let shape: Vec<usize> = array.shape().iter().map(|d| *d as usize).collect();
    let order = array.order();
    let data = match (element.type_char(), element.size_field()) {
        (TypeChar::Float, 2) => convert(array, f16::to_f32)?,
        (TypeChar::Float, 4) => convert(array, |v: f32| v)?,
        (TypeChar::Float, 8) => convert(array, |v: f64| v as f32)?,
        (TypeChar::Uint, 1) => convert(array, |v: u8| f32::from(v))?,
        _ => bail!("the array's elements are {element}, expected f32, f64, f16 or u8"),
    };
    Ok(Array {
        data: if order == Order::Fortran { to_c_order(&shape, &data) } else { data },
        shape,
    })
}

/// Reads a list of class numbers.
pub(crate) fn read_classes(path: &Path) -> anyhow::Result<Vec<usize>> {
    let read = || {
        let file = File::open(path).context("cannot open")?;
        let array = NpyFile::new(BufReader::new(file)).context("not an npy file")?;
        ensure!(array.shape().len() == 1, "shape {:?}, expected a list", array.shape());
        let DType::Plain(element) = array.dtype() else {
            bail!("the elements are structures, expected integers");
        };
        let classes: Vec<i64> = match (element.type_char(), element.size_field()) {
            (TypeChar::Int, 8) => integers::<i64>(array)?,
            (TypeChar::Int, 4) => integers::<i32>(array)?,
            (TypeChar::Uint, 1) => integers::<u8>(array)?,
            (TypeChar::Uint, 4) => integers::<u32>(array)?,
            _ => bail!("the elements are {element}, expected i64, i32, u32 or u8"),
        };
        let class = |v| usize::try_from(v).with_context(|| format!("{v} is not a class"));
        classes.into_iter().map(class).collect()
    };
    read().with_context(|| path.display().to_string())
}

fn integers<T: Deserialize + Into<i64>>(
    array: NpyFile<BufReader<File>>,
) -> anyhow::Result<Vec<i64>> {
    let values = array.data::<T>()?;
    values.map(|v| v.map(Into::into)).collect::<Result<_, _>>().context("cannot read")
}

fn convert<T: Deserialize>(
    array: NpyFile<BufReader<File>>,
    to_f32: impl Fn(T) -> f32,
) -> anyhow::Result<Vec<f32>> {
    let values = array.data::<T>()?;
    values.map(|v| v.map(&to_f32)).collect::<Result<_, _>>().context("cannot read")
}

/// Reorders an array whose first axis varies fastest.
fn to_c_order(shape: &[usize], data: &[f32]) -> Vec<f32> {
    let mut strides = vec![1; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1] * shape[axis - 1];
    }
    (0..data.len())
        .map(|mut index| {
            let mut source = 0;
            for (extent, stride) in shape.iter().zip(&strides).rev() {
                source += index % extent * stride;
                index /= extent;
            }
            data[source]
        })
        .collect()
}

/// Writes an array as f32.
pub(crate) fn write(path: &Path, array: &Array) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        let shape: Vec<u64> = array.shape.iter().map(|d| *d as u64).collect();
        let options = npyz::WriteOptions::<f32>::new().default_dtype().shape(&shape);
        let mut writer = options.writer(&mut out).begin_nd()?;
        writer.extend(array.data.iter().copied())?;
        writer.finish()?;
        out.flush()
    };
    write().with_context(|| format!("{}: cannot write", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fortran_order_is_transposed() {
        // [[0, 1, 2], [3, 4, 5]] column by column.
        assert_eq!(to_c_order(&[2, 3], &[0., 3., 1., 4., 2., 5.]), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(to_c_order(&[], &[7.0]), [7.0]);
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        assert_eq!(to_c_order(&[1, 24, 1], &data), data);
        // Reversing the axes twice is the identity.
        let once = to_c_order(&[2, 3, 4], &data);
        assert_eq!(to_c_order(&[4, 3, 2], &once), data);
    }
}
