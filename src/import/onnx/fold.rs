//! Nodes whose operands are all constants: weights being prepared, and shape arithmetic.

use std::rc::Rc;

use half::{bf16, f16};

use super::axes::{AxisMap, permutation, resolve_axes, resolve_axis, resolve_target};
use super::ops::{SliceBounds, shape_range};
use super::proto::dtype;
use super::symbolic::SymInt;
use super::tensor::{Data, Tensor, elements, strides};
use super::{Activation, Holds, Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::{Axis, Shape};

impl<'a> Importer<'a> {
    /// Computes a node of constants.
    pub(super) fn constant_node(&mut self, node: &mut Operation<'a>) -> Result<Value<'a>> {
        let tensor = match node.kind {
            "Constant" => self.constant(node)?,
            "ConstantOfShape" => return self.constant_of_shape(node),
            "Shape" => {
                let dims = self.operand_tensor(node, 0)?.dims.clone();
                let dims: Vec<i64> =
                    dims[shape_range(node, dims.len())?].iter().map(|&d| d as i64).collect();
                Tensor::int(&[dims.len()], dims)
            }
            "Identity" => return node.take(0),
            "Dropout" => {
                self.check_dropout(node)?;
                return node.take(0);
            }
            "Cast" => self.cast_constant(node)?,
            "DequantizeLinear" => self.dequantized_constant(node)?,
            "QuantizeLinear" => self.quantized_constant(node)?,
            "Reshape" => {
                let allow_zero = node.attributes.flag("allowzero", false)?;
                let x = self.operand_tensor(node, 0)?;
                let target = self.operand_tensor(node, 1)?.sym_ints()?;
                let known: Vec<SymInt> = x.dims.iter().map(|&d| SymInt::known(d as i64)).collect();
                let target = resolve_target(&known, &target, allow_zero, self.batch)?;
                Rc::unwrap_or_clone(x).reshaped(&extents(&target, self.batch)?)?
            }
            "Flatten" => {
                let x = self.operand_tensor(node, 0)?;
                let rank = x.dims.len();
                let axis = node.attributes.int_or("axis", 1)?;
                let axis = if axis == rank as i64 { rank } else { resolve_axis(axis, rank)? };
                let (rows, columns) = x.dims.split_at(axis);
                let dims = [rows.iter().product(), columns.iter().product()];
                Rc::unwrap_or_clone(x).reshaped(&dims)?
            }
            "Squeeze" => {
                let axes = self.axes_operand(node, 13)?;
                let x = self.operand_tensor(node, 0)?;
                let mut dims = x.dims.clone();
                match axes {
                    Some(axes) => {
                        for i in resolve_axes(&axes, dims.len())?.into_iter().rev() {
                            dims.remove(i);
                        }
                    }
                    None => dims.retain(|&d| d != 1),
                }
                Rc::unwrap_or_clone(x).reshaped(&dims)?
            }
            "Unsqueeze" => {
                let axes = self.axes_operand(node, 13)?;
                let axes = axes.ok_or_else(|| Error::format("the axes are missing"))?;
                let x = self.operand_tensor(node, 0)?;
                let mut dims = x.dims.clone();
                for i in resolve_axes(&axes, dims.len() + axes.len())? {
                    dims.insert(i, 1);
                }
                Rc::unwrap_or_clone(x).reshaped(&dims)?
            }
            "Transpose" => {
                let x = self.operand_tensor(node, 0)?;
                let perm = permutation(node.attributes.ints("perm")?, x.dims.len())?;
                x.transposed(&perm)
            }
            "Expand" => {
                let x = self.operand_tensor(node, 0)?;
                let target = self.operand_tensor(node, 1)?.sym_ints()?;
                let dims = common_dims(&x.dims, &extents(&target, self.batch)?)?;
                self.budget.check(elements(&dims)?)?;
                x.broadcast(&dims)?
            }
            "Concat" => self.concat_constants(node)?,
            "Gather" => self.gather_constant(node)?,
            "Slice" => {
                let bounds = self.slice_bounds(node)?;
                let x = self.operand_tensor(node, 0)?;
                slice_constant(&x, &bounds)?
            }
            "Add" | "Sub" | "Mul" | "Div" | "Min" | "Max" | "Sum" => self.arithmetic(node)?,
            "Neg" | "Sqrt" | "Reciprocal" | "Floor" | "Ceil" | "Abs" => self.unary(node)?,
            "Equal" => {
                let (x, y) = (self.operand_tensor(node, 0)?, self.operand_tensor(node, 1)?);
                let equal = |a: SymInt, b: SymInt| match a.sub(b)?.value() {
                    Some(difference) => Ok(SymInt::known((difference == 0).into())),
                    None => Err(Error::unsupported(format!("whether {a} equals {b}"))),
                };
                self.zip_ints(&x, &y, equal)?
            }
            "Where" => self.select(node)?,
            "ReduceProd" => self.product(node)?,
            "Range" => self.range(node)?,
            _ => return Err(Error::unsupported("the operator is not supported on constants")),
        };
        self.budget.charge(tensor.len())?;
        Ok(Value::Constant(Rc::new(tensor)))
    }

    fn constant(&mut self, node: &Operation<'a>) -> Result<Tensor> {
        let attributes = &node.attributes;
        if let Some(proto) = attributes.tensor("value")? {
            return super::tensor::decode(proto, self.folder);
        }
        if let Some(v) = attributes.float("value_float")? {
            return Ok(Tensor::scalar(v));
        }
        if let Some(v) = attributes.floats("value_floats")? {
            return Ok(Tensor::float(&[v.len()], v.to_vec()));
        }
        if let Some(v) = attributes.int("value_int")? {
            return Ok(Tensor::int(&[], vec![v]));
        }
        if let Some(v) = attributes.ints("value_ints")? {
            return Ok(Tensor::int(&[v.len()], v.to_vec()));
        }
        // Text and sparse tensors; the attribute is named by the check that all were read.
        attributes.finish()?;
        Err(Error::format("the constant has no value"))
    }

    fn constant_of_shape(&mut self, node: &mut Operation<'a>) -> Result<Value<'a>> {
        let value = match node.attributes.tensor("value")? {
            Some(proto) => super::tensor::decode(proto, self.folder)?,
            None => Tensor::scalar(0.0),
        };
        if value.len() != 1 {
            return Err(Error::format(format!("the value has {} elements, not 1", value.len())));
        }
        let value = value.reshaped(&[])?;
        let dims = self.operand_tensor(node, 0)?.sym_ints()?;
        if let [n, rest @ ..] = &dims[..]
            && n.same(SymInt::images(1))
            && self.batch != Some(1)
        {
            return self.batched_constant(node.name, rest, value.as_scalar()?);
        }
        let dims = extents(&dims, self.batch)?;
        self.budget.charge(elements(&dims)?)?;
        Ok(Value::Constant(Rc::new(value.broadcast(&dims)?)))
    }

    /// `[N, dims...]` filled with `value`: the same image for any batch.
    fn batched_constant(&mut self, name: &str, dims: &[SymInt], value: f32) -> Result<Value<'a>> {
        let dims = extents(dims, self.batch)?;
        let (axes, shape) = match dims[..] {
            [c] => (&[Axis::N, Axis::C][..], Shape::vector(c)),
            [c, w] => (&[Axis::N, Axis::C, Axis::W][..], Shape::new(c, 1, w)),
            [c, h, w] => (&[Axis::N, Axis::C, Axis::H, Axis::W][..], Shape::new(c, h, w)),
            _ => return Err(Error::unsupported(format!("a batch of constants {dims:?}"))),
        };
        shape.check()?;
        self.budget.charge(shape.len())?;
        let value = self.constant_image(name, shape, vec![value; shape.len()])?;
        Ok(Value::Activation(Activation { value, axes: AxisMap::of(axes), holds: Holds::Reals }))
    }

    fn cast_constant(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        node.attributes.ignore(&["saturate"]);
        let to = node.attributes.int("to")?;
        let to = to.ok_or_else(|| Error::format("attribute 'to' is missing"))?;
        let Tensor { dims, data, .. } = Rc::unwrap_or_clone(self.operand_tensor(node, 0)?);
        let unsupported = || Error::unsupported(format!("cast of a constant to element type {to}"));
        let to = i32::try_from(to).map_err(|_| unsupported())?;
        let floats = |round: fn(f32) -> f32, data: Data| match data {
            Data::Float(v) => Ok(Data::Float(v.into_iter().map(round).collect())),
            Data::Int(v) => Ok(Data::Float(v.into_iter().map(|i| round(i as f32)).collect())),
            Data::Symbolic(_) => {
                Err(Error::unsupported("cast of a batch-dependent number to float"))
            }
        };
        // Out-of-range conversions are undefined in ONNX; shapes do not need them.
        let data = match (to, data) {
            (dtype::FLOAT | dtype::DOUBLE, data) => floats(|v| v, data)?,
            (dtype::FLOAT16, data) => floats(|v| f16::from_f32(v).to_f32(), data)?,
            (dtype::BFLOAT16, data) => floats(|v| bf16::from_f32(v).to_f32(), data)?,
            (dtype::INT64 | dtype::INT32, Data::Float(v)) => {
                Data::Int(v.into_iter().map(|v| v as i64).collect())
            }
            (dtype::INT64 | dtype::INT32, data) => data,
            (dtype::BOOL, Data::Float(v)) => {
                Data::Int(v.into_iter().map(|v| (v != 0.0).into()).collect())
            }
            (dtype::BOOL, Data::Int(v)) => {
                Data::Int(v.into_iter().map(|v| (v != 0).into()).collect())
            }
            _ => return Err(unsupported()),
        };
        Ok(Tensor { dims, data, elem_type: 0, integers: None })
    }

    fn concat_constants(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let axis = node.attributes.int("axis")?;
        let axis = axis.ok_or_else(|| Error::format("attribute 'axis' is missing"))?;
        let mut parts = Vec::new();
        for i in 0..node.operands.len() {
            parts.push(self.operand_tensor(node, i)?);
        }
        let first = parts.first().ok_or_else(|| Error::format("operand 0 is missing"))?;
        let axis = resolve_axis(axis, first.dims.len())?;
        let mut dims = first.dims.clone();
        dims[axis] = 0;
        for part in &parts {
            let mut other = part.dims.clone();
            if other.len() == dims.len() {
                other[axis] = dims[axis];
            }
            if other != dims {
                return Err(Error::shape("operands differ in another axis"));
            }
            dims[axis] += part.dims[axis];
        }
        self.budget.check(elements(&dims)?)?;
        // Rows of all parts in turn.
        let outer: usize = dims[..axis].iter().product();
        let row = |t: &Tensor| t.dims[axis..].iter().product::<usize>();
        if parts.iter().all(|t| matches!(t.data, Data::Float(_))) {
            let mut data = Vec::with_capacity(elements(&dims)?);
            for i in 0..outer {
                for part in &parts {
                    data.extend_from_slice(&part.floats()?[i * row(part)..][..row(part)]);
                }
            }
            return Ok(Tensor::float(&dims, data));
        }
        let ints = parts.iter().map(|t| t.sym_ints()).collect::<Result<Vec<_>>>()?;
        let mut data = Vec::new();
        for i in 0..outer {
            for (part, ints) in parts.iter().zip(&ints) {
                data.extend_from_slice(&ints[i * row(part)..][..row(part)]);
            }
        }
        Ok(Tensor::symbolic(&dims, data))
    }

    fn gather_constant(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let x = self.operand_tensor(node, 0)?;
        let indices = self.operand_tensor(node, 1)?;
        let axis = resolve_axis(node.attributes.int_or("axis", 0)?, x.dims.len())?;
        let picks = indices.ints()?;
        let picks: Vec<usize> =
            picks.iter().map(|&i| resolve_axis(i, x.dims[axis])).collect::<Result<_>>()?;
        let (outer, inner) = (&x.dims[..axis], &x.dims[axis + 1..]);
        let dims = [outer, &indices.dims, inner].concat();
        self.budget.check(elements(&dims)?)?;
        let inner: usize = inner.iter().product();
        let row = x.dims[axis] * inner;
        Ok(x.gathered(&dims, |i| {
            let (k, rest) = (i / inner, i % inner);
            k / picks.len() * row + picks[k % picks.len()] * inner + rest
        }))
    }

    /// `Add`, `Sub`, `Mul`, `Div`, `Min`, `Max` and `Sum`, from left to right.
    fn arithmetic(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let mut result = Rc::unwrap_or_clone(self.operand_tensor(node, 0)?);
        for i in 1..node.operands.len() {
            let y = self.operand_tensor(node, i)?;
            result = match (&result.data, node.kind) {
                (Data::Float(_), "Add" | "Sum") => self.zip_floats(&result, &y, |a, b| a + b)?,
                (Data::Float(_), "Sub") => self.zip_floats(&result, &y, |a, b| a - b)?,
                (Data::Float(_), "Mul") => self.zip_floats(&result, &y, |a, b| a * b)?,
                (Data::Float(_), "Div") => self.zip_floats(&result, &y, |a, b| a / b)?,
                (Data::Float(_), "Min") => self.zip_floats(&result, &y, f32::min)?,
                (Data::Float(_), _) => self.zip_floats(&result, &y, f32::max)?,
                (_, "Add" | "Sum") => self.zip_ints(&result, &y, SymInt::add)?,
                (_, "Sub") => self.zip_ints(&result, &y, SymInt::sub)?,
                (_, "Mul") => self.zip_ints(&result, &y, SymInt::mul)?,
                (_, "Div") => self.zip_ints(&result, &y, SymInt::div)?,
                (_, kind) => self.zip_ints(&result, &y, |a, b| match (a.value(), b.value()) {
                    (Some(v), Some(w)) => Ok(if (kind == "Min") == (v < w) { a } else { b }),
                    _ => Err(Error::unsupported(format!("{kind} of {a} and {b}"))),
                })?,
            };
        }
        Ok(result)
    }

    /// Both operands repeated to their common extents.
    fn broadcast_both(&mut self, x: &Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
        let dims = common_dims(&x.dims, &y.dims)?;
        self.budget.check(elements(&dims)?.saturating_mul(3))?;
        Ok((x.broadcast(&dims)?, y.broadcast(&dims)?))
    }

    fn zip_floats(&mut self, x: &Tensor, y: &Tensor, f: fn(f32, f32) -> f32) -> Result<Tensor> {
        let (x, y) = self.broadcast_both(x, y)?;
        let data = x.floats()?.iter().zip(y.floats()?).map(|(&a, &b)| f(a, b)).collect();
        Ok(Tensor::float(&x.dims, data))
    }

    fn zip_ints(
        &mut self,
        x: &Tensor,
        y: &Tensor,
        f: impl Fn(SymInt, SymInt) -> Result<SymInt>,
    ) -> Result<Tensor> {
        let (x, y) = self.broadcast_both(x, y)?;
        let pairs = x.sym_ints()?.into_iter().zip(y.sym_ints()?);
        let data = pairs.map(|(a, b)| f(a, b)).collect::<Result<_>>()?;
        Ok(Tensor::symbolic(&x.dims, data))
    }

    fn unary(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let x = Rc::unwrap_or_clone(self.operand_tensor(node, 0)?);
        if node.kind == "Neg" && !matches!(x.data, Data::Float(_)) {
            return self.zip_ints(&Tensor::int(&[], vec![0]), &x, SymInt::sub);
        }
        let f: fn(f32) -> f32 = match node.kind {
            "Neg" => |v| -v,
            "Sqrt" => f32::sqrt,
            "Reciprocal" => f32::recip,
            "Floor" => f32::floor,
            "Ceil" => f32::ceil,
            _ => f32::abs,
        };
        let dims = x.dims.clone();
        let mut data = x.into_floats()?;
        data.iter_mut().for_each(|v| *v = f(*v));
        Ok(Tensor::float(&dims, data))
    }

    fn select(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let condition = self.operand_tensor(node, 0)?;
        let (x, y) = (self.operand_tensor(node, 1)?, self.operand_tensor(node, 2)?);
        let dims = common_dims(&common_dims(&condition.dims, &x.dims)?, &y.dims)?;
        self.budget.check(elements(&dims)?.saturating_mul(4))?;
        let condition = condition.broadcast(&dims)?.ints()?;
        let (x, y) = (x.broadcast(&dims)?.sym_ints()?, y.broadcast(&dims)?.sym_ints()?);
        let picks = condition.iter().zip(x.into_iter().zip(y));
        let data = picks.map(|(&c, (x, y))| if c != 0 { x } else { y }).collect();
        Ok(Tensor::symbolic(&dims, data))
    }

    fn product(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let keep = node.attributes.flag("keepdims", true)?;
        let axes = self.axes_operand(node, 18)?;
        let x = self.operand_tensor(node, 0)?;
        let whole = match axes {
            Some(axes) => resolve_axes(&axes, x.dims.len())?.len() == x.dims.len(),
            None => true,
        };
        if !whole {
            return Err(Error::unsupported("only the product of all elements"));
        }
        let ints = x.sym_ints()?;
        let product = ints.into_iter().try_fold(SymInt::known(1), SymInt::mul)?;
        let dims = if keep { vec![1; x.dims.len()] } else { Vec::new() };
        Ok(Tensor::symbolic(&dims, vec![product]))
    }

    fn range(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let mut bounds = [0; 3];
        for (i, bound) in bounds.iter_mut().enumerate() {
            let tensor = self.operand_tensor(node, i)?;
            match tensor.ints()?[..] {
                [v] => *bound = v,
                _ => return Err(Error::shape("a bound is not one number")),
            }
        }
        let [start, limit, delta] = bounds.map(i128::from);
        if delta == 0 {
            return Err(Error::format("a step of 0"));
        }
        let len = ((limit - start + delta - delta.signum()) / delta).max(0);
        let len = usize::try_from(len).map_err(|_| Error::shape("the range is too long"))?;
        self.budget.check(len)?;
        let data = (0..len as i128).map(|i| (start + i * delta) as i64).collect();
        Ok(Tensor::int(&[len], data))
    }
}

/// Extents as numbers, with the batch put in where it is known.
fn extents(dims: &[SymInt], batch: Option<i64>) -> Result<Vec<usize>> {
    let extent = |d: &SymInt| {
        let d = d.at_batch(batch)?;
        let value = d.value().ok_or_else(|| {
            Error::unsupported(format!("a constant whose extent {d} depends on the batch"))
        })?;
        usize::try_from(value).map_err(|_| Error::format(format!("extent {value}")))
    };
    dims.iter().map(extent).collect()
}

/// The extents to which both broadcast.
fn common_dims(x: &[usize], y: &[usize]) -> Result<Vec<usize>> {
    let rank = x.len().max(y.len());
    let at = |dims: &[usize], i: usize| match (i + dims.len()).checked_sub(rank) {
        Some(k) => dims[k],
        None => 1,
    };
    let common = |i: usize| match (at(x, i), at(y, i)) {
        (a, b) if a == b || b == 1 => Ok(a),
        (1, b) => Ok(b),
        _ => Err(Error::shape(format!("shapes {x:?} and {y:?} do not broadcast"))),
    };
    (0..rank).map(common).collect()
}

fn slice_constant(x: &Tensor, bounds: &SliceBounds) -> Result<Tensor> {
    let SliceBounds { starts, ends, axes, steps } = bounds;
    let axes = match axes {
        Some(axes) => axes.clone(),
        None => (0..starts.len() as i64).collect(),
    };
    let steps = steps.clone().unwrap_or_else(|| vec![1; axes.len()]);
    if [starts.len(), ends.len(), steps.len()] != [axes.len(); 3] {
        return Err(Error::format("starts, ends, axes and steps differ in length"));
    }
    resolve_axes(&axes, x.dims.len())?;
    let strides = strides(&x.dims);
    let mut dims = x.dims.clone();
    let mut first = 0i64;
    let mut moves: Vec<i64> = strides.iter().map(|&s| s as i64).collect();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = resolve_axis(axis, x.dims.len())?;
        let known = |v: SymInt| {
            v.value().ok_or_else(|| Error::unsupported(format!("bound {v} depends on the batch")))
        };
        let (start, len) = slice_range(known(starts[i])?, known(ends[i])?, steps[i], dims[axis])?;
        first += start * strides[axis] as i64;
        moves[axis] = moves[axis].saturating_mul(steps[i]);
        dims[axis] = len;
    }
    let len: usize = dims.iter().product();
    // Flat positions may run backwards, so steps are signed here.
    let position = |mut i: usize| {
        let mut at = first;
        for (&d, &step) in dims.iter().zip(&moves).rev() {
            at += (i % d) as i64 * step;
            i /= d;
        }
        at as usize
    };
    debug_assert!(len == 0 || position(len - 1) < x.len());
    Ok(x.gathered(&dims, position))
}

/// First index and number of elements of a slice of one axis, by ONNX's (Python's) rules.
fn slice_range(start: i64, end: i64, step: i64, extent: usize) -> Result<(i64, usize)> {
    let extent = extent as i64;
    let from_end = |v: i64| if v < 0 { v.saturating_add(extent) } else { v };
    let (start, end) = (from_end(start), from_end(end));
    let (start, nb_passed) = match step {
        0 => return Err(Error::format("a step of 0")),
        1.. => {
            let start = start.clamp(0, extent);
            (start, end.clamp(0, extent) - start)
        }
        _ => {
            let start = start.clamp(-1, extent - 1);
            (start, start - end.clamp(-1, extent - 1))
        }
    };
    let len = nb_passed.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    Ok((start, len as usize))
}
