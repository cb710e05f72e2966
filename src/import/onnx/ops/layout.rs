//! Operators that move or regroup elements. Most only change the axis map.

use std::rc::Rc;

use super::{Activation, Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::{Axis, Op, Pad, Slice};
use crate::import::onnx::axes::{permutation, resolve_axes, resolve_target};
use crate::import::onnx::symbolic::{SymInt, list};
use crate::import::onnx::tensor::Tensor;

impl<'a> Importer<'a> {
    pub(super) fn shape_of(&mut self, node: &mut Operation<'a>) -> Result<Value<'a>> {
        let Value::Activation(x) = node.take(0)? else {
            return Err(Error::format("operand 0 is missing"));
        };
        let dims = self.dims(&x);
        let range = shape_range(node, dims.len())?;
        let dims = dims[range].to_vec();
        Ok(Value::Constant(Rc::new(Tensor::symbolic(&[dims.len()], dims))))
    }

    pub(super) fn transpose(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let mut x = self.identity(node)?;
        let perm = permutation(node.attributes.ints("perm")?, x.axes.rank())?;
        x.axes = x.axes.permuted(&perm);
        Ok(x)
    }

    pub(super) fn reshape(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let allow_zero = node.attributes.flag("allowzero", false)?;
        let x = self.identity(node)?;
        let target = self.operand_tensor(node, 1)?.sym_ints()?;
        let target = resolve_target(&self.dims(&x), &target, allow_zero, self.batch)?;
        self.regrouped(x, &target)
    }

    pub(super) fn flatten(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = self.identity(node)?;
        let rank = x.axes.rank() as i64;
        let axis = node.attributes.int_or("axis", 1)?;
        let axis = if axis < 0 { axis + rank } else { axis };
        if !(0..=rank).contains(&axis) {
            return Err(Error::format(format!("axis {axis} of a tensor of {rank} axes")));
        }
        let dims = self.dims(&x);
        let product = |dims: &[SymInt]| dims.iter().try_fold(SymInt::known(1), |a, d| a.mul(*d));
        let (rows, columns) = dims.split_at(axis as usize);
        let target = [product(rows)?, product(columns)?];
        self.regrouped(x, &target)
    }

    pub(super) fn squeeze(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let axes = self.axes_operand(node, 13)?;
        let x = self.identity(node)?;
        let dims = self.dims(&x);
        let is_one = |d: &SymInt| Ok(d.at_batch(self.batch)?.same(SymInt::known(1)));
        let dropped = match axes {
            Some(axes) => resolve_axes(&axes, dims.len())?,
            None => {
                let ones = dims.iter().map(is_one).collect::<Result<Vec<bool>>>()?;
                (0..dims.len()).filter(|&i| ones[i]).collect()
            }
        };
        for &i in &dropped {
            if !is_one(&dims[i])? {
                return Err(Error::shape(format!("axis {i} has extent {}, not 1", dims[i])));
            }
        }
        let kept = (0..dims.len()).filter(|i| !dropped.contains(i));
        let target: Vec<SymInt> = kept.map(|i| dims[i]).collect();
        self.regrouped(x, &target)
    }

    pub(super) fn unsqueeze(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let axes = self.axes_operand(node, 13)?;
        let axes = axes.ok_or_else(|| Error::format("the axes are missing"))?;
        let mut x = self.identity(node)?;
        for i in resolve_axes(&axes, x.axes.rank() + axes.len())? {
            x.axes.0.insert(i, Vec::new());
        }
        Ok(x)
    }

    /// The axes, an attribute before opset `since` and operand 1 from then on.
    pub(in crate::import::onnx) fn axes_operand(
        &mut self,
        node: &mut Operation<'a>,
        since: i64,
    ) -> Result<Option<Vec<i64>>> {
        if self.opset < since {
            return Ok(node.attributes.ints("axes")?.map(<[i64]>::to_vec));
        }
        self.optional_tensor(node, 1)?.map(|t| t.ints()).transpose()
    }

    fn regrouped(&mut self, mut x: Activation, target: &[SymInt]) -> Result<Activation> {
        x.axes = x.axes.reshaped(self.shape(&x), target, self.batch)?;
        Ok(x)
    }

    pub(super) fn concat(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let axis = node.attributes.int("axis")?;
        let axis = axis.ok_or_else(|| Error::format("attribute 'axis' is missing"))?;
        let mut operands = Vec::new();
        for i in 0..node.operands.len() {
            operands.push(match node.operands[i] {
                Some(Value::Activation(_)) => Value::Activation(node.activation(i)?),
                _ => node.take(i)?,
            });
        }
        // All operands are brought to the axes of the first activation.
        let first = operands.iter().find_map(|v| match v {
            Value::Activation(x) => Some(x.clone()),
            _ => None,
        });
        let first = first.ok_or_else(|| Error::format("operand 0 is missing"))?;
        let first = self.separated(node.name, first)?;
        let axis = first.axes.index(axis)?;
        let mut axes = first.axes.clone();
        match axes.0[axis][..] {
            [Axis::C] => {}
            [] if !axes.contains(Axis::C) => axes.0[axis] = vec![Axis::C],
            _ => {
                return Err(Error::unsupported(format!(
                    "axis {axis} is {:?}; only channels can be concatenated",
                    axes.0[axis]
                )));
            }
        }
        let like = Activation { axes, ..first };
        let mut values = Vec::new();
        for operand in operands {
            values.push(match operand {
                Value::Activation(x) => self.aligned(node.name, like.clone(), x)?.1.value,
                constant => {
                    let tensor = self.tensor(constant)?;
                    let mut shape = self.shape(&like);
                    if tensor.dims.len() != like.axes.rank() {
                        return Err(Error::shape("operands differ in their number of axes"));
                    }
                    shape.c = tensor.dims[axis];
                    shape.check()?;
                    let dims = like.axes.dims(shape);
                    for (i, (own, wanted)) in tensor.dims.iter().zip(&dims).enumerate() {
                        if wanted.value().map_or(*own != 1, |w| w != *own as i64) {
                            return Err(Error::unsupported(format!(
                                "a constant of shape {:?} differs from {} at axis {i}",
                                tensor.dims,
                                list(&dims)
                            )));
                        }
                    }
                    let data = self.image(&tensor, &like.axes, shape)?;
                    self.constant_image(node.name, shape, data)?
                }
            });
        }
        let value = self.emit(node.name, Op::Concat, &values)?;
        Ok(self.like(&like, value))
    }

    pub(super) fn slice(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let bounds = self.slice_bounds(node)?;
        let x = node.activation(0)?;
        let x = self.separated(node.name, x)?;
        let dims = self.dims(&x);
        let axes = match &bounds.axes {
            Some(axes) => axes.clone(),
            None => (0..bounds.starts.len() as i64).collect(),
        };
        let steps = bounds.steps.unwrap_or_else(|| vec![1; axes.len()]);
        if [bounds.starts.len(), bounds.ends.len(), steps.len()] != [axes.len(); 3] {
            return Err(Error::format("starts, ends, axes and steps differ in length"));
        }
        resolve_axes(&axes, dims.len())?;
        let mut slice = Slice { start: [0; 3], step: [1; 3], end: [usize::MAX; 3] };
        for (i, &axis) in axes.iter().enumerate() {
            let axis = x.axes.index(axis)?;
            let (start, end, step) = (bounds.starts[i], bounds.ends[i], steps[i]);
            let step = usize::try_from(step).ok().filter(|&s| s > 0).ok_or_else(|| {
                Error::unsupported(format!("step {step}; only positive ones are supported"))
            })?;
            let Some(extent) = dims[axis].value() else {
                // Images are independent: the batch can only be taken as it is.
                let all = start.same(SymInt::known(0))
                    && step == 1
                    && (end.value().is_some_and(|e| e >= i32::MAX.into()) || end.same(dims[axis]));
                if all {
                    continue;
                }
                return Err(Error::unsupported("the batch is sliced"));
            };
            let known = |v: SymInt| {
                v.value().ok_or_else(|| Error::unsupported(format!("bound {v} depends on N")))
            };
            // As Python: negative bounds count from the end, and all are clipped.
            let clip = |v: i64| if v < 0 { (v + extent).max(0) } else { v.min(extent) };
            let (first, last) = (clip(known(start)?), clip(known(end)?));
            let Some(&logical) = x.axes.0[axis].first() else {
                if first == 0 && last == 1 {
                    continue;
                }
                return Err(Error::shape("the slice is empty"));
            };
            let to_end = last == extent;
            let from_size = |v: SymInt| v.from_size || known(v).is_ok_and(|v| v < 0);
            if logical != Axis::C && (from_size(start) || !to_end && from_size(end)) {
                self.network.graph.fixed_size = true;
            }
            let k = match logical {
                Axis::C => 0,
                Axis::H => 1,
                _ => 2,
            };
            slice.start[k] = first as usize;
            slice.step[k] = step;
            slice.end[k] = if to_end { usize::MAX } else { last as usize };
        }
        let value = self.emit(node.name, Op::Slice(slice), &[x.value])?;
        Ok(self.like(&x, value))
    }

    /// The bounds of a `Slice`, attributes before opset 10 and operands from then on.
    pub(in crate::import::onnx) fn slice_bounds(
        &mut self,
        node: &mut Operation<'a>,
    ) -> Result<SliceBounds> {
        if self.opset < 10 {
            let bounds = |name: &str| -> Result<Vec<SymInt>> {
                let ints = node.attributes.ints(name)?;
                let ints = ints.ok_or_else(|| Error::format(format!("no attribute '{name}'")))?;
                Ok(ints.iter().map(|&i| SymInt::known(i)).collect())
            };
            return Ok(SliceBounds {
                starts: bounds("starts")?,
                ends: bounds("ends")?,
                axes: node.attributes.ints("axes")?.map(<[i64]>::to_vec),
                steps: None,
            });
        }
        Ok(SliceBounds {
            starts: self.operand_tensor(node, 1)?.sym_ints()?,
            ends: self.operand_tensor(node, 2)?.sym_ints()?,
            axes: self.optional_tensor(node, 3)?.map(|t| t.ints()).transpose()?,
            steps: self.optional_tensor(node, 4)?.map(|t| t.ints()).transpose()?,
        })
    }

    pub(super) fn pad(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        match node.attributes.string("mode")? {
            None | Some("constant") => {}
            Some(mode) => return Err(Error::unsupported(format!("mode '{mode}'"))),
        }
        let (pads, value, axes) = if self.opset < 11 {
            let pads = node.attributes.ints("pads")?.map(<[i64]>::to_vec);
            let pads = pads.ok_or_else(|| Error::format("attribute 'pads' is missing"))?;
            (pads, node.attributes.float_or("value", 0.0)?, None)
        } else {
            let pads = self.operand_tensor(node, 1)?.ints()?;
            let value = self.optional_tensor(node, 2)?;
            let value = value.map_or(Ok(0.0), |v| v.as_scalar())?;
            (pads, value, self.optional_tensor(node, 3)?.map(|t| t.ints()).transpose()?)
        };
        let x = node.activation(0)?;
        let mut x = self.separated(node.name, x)?;
        let axes = match axes {
            Some(axes) => {
                resolve_axes(&axes, x.axes.rank())?;
                axes.iter().map(|&a| x.axes.index(a)).collect::<Result<_>>()?
            }
            None => (0..x.axes.rank()).collect::<Vec<_>>(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(Error::format(format!("{} pads for {} axes", pads.len(), axes.len())));
        }
        let mut channels = [0; 2];
        let mut frame = Pad::default();
        for (i, &axis) in axes.iter().enumerate() {
            let pad = |v: i64| {
                usize::try_from(v).map_err(|_| Error::unsupported(format!("negative pad {v}")))
            };
            let (before, after) = (pad(pads[i])?, pad(pads[axes.len() + i])?);
            if (before, after) == (0, 0) {
                continue;
            }
            if x.axes.0[axis].is_empty() {
                let free = [Axis::C, Axis::H, Axis::W].into_iter().find(|&a| !x.axes.contains(a));
                x.axes.0[axis].extend(free);
            }
            match x.axes.0[axis][..] {
                [Axis::C] => channels = [before, after],
                [Axis::H] => (frame.top, frame.bottom) = (before, after),
                [Axis::W] => (frame.left, frame.right) = (before, after),
                _ => return Err(Error::unsupported("the batch is padded")),
            }
        }
        let padded = self.emit(node.name, Op::Pad { channels, frame, value }, &[x.value])?;
        Ok(self.like(&x, padded))
    }
}

/// The bounds of a `Slice`.
pub(in crate::import::onnx) struct SliceBounds {
    pub(in crate::import::onnx) starts: Vec<SymInt>,
    pub(in crate::import::onnx) ends: Vec<SymInt>,
    pub(in crate::import::onnx) axes: Option<Vec<i64>>,
    pub(in crate::import::onnx) steps: Option<Vec<i64>>,
}

/// The part of a shape that `Shape`'s attributes ask for (opset 15).
pub(in crate::import::onnx) fn shape_range(
    node: &Operation,
    rank: usize,
) -> Result<std::ops::Range<usize>> {
    let clip = |v: i64| (if v < 0 { v + rank as i64 } else { v }).clamp(0, rank as i64) as usize;
    let start = clip(node.attributes.int_or("start", 0)?);
    let end = clip(node.attributes.int_or("end", rank as i64)?);
    Ok(start..end.max(start))
}
