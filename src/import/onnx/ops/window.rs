//! Sliding windows: convolution and pooling.

use std::rc::Rc;

use super::{Activation, Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::{Axis, ConstId, Conv, Op, Pad, Pool, PoolKind, Shape};

/// A window's attributes over height and width.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: Pad,
    dilation: [usize; 2],
}

/// Which of height and width a tensor's spatial axes are, in the tensor's order.
pub(super) struct Spatial(Vec<Axis>);

impl Spatial {
    /// An attribute with one number per spatial axis, as height and width; `fill` for an absent
    /// one.
    fn pair(&self, values: &[usize], fill: usize) -> [usize; 2] {
        let of = |axis| self.0.iter().position(|a| *a == axis).map_or(fill, |i| values[i]);
        [of(Axis::H), of(Axis::W)]
    }

    fn rank(&self) -> usize {
        self.0.len()
    }
}

impl<'a> Importer<'a> {
    /// `x` checked to be `[N, C, spatial...]`.
    pub(super) fn spatial(&mut self, name: &str, x: Activation) -> Result<(Activation, Spatial)> {
        let x = self.separated(name, x)?;
        let fits = |i: usize, axis: Axis| match x.axes.0[i].first() {
            Some(a) => *a == axis,
            None => !x.axes.contains(axis),
        };
        let orders = [&[Axis::H, Axis::W][..], &[Axis::W, Axis::H], &[Axis::W], &[Axis::H]];
        let is_nc = x.axes.rank() > 2 && fits(0, Axis::N) && fits(1, Axis::C);
        let order = orders.into_iter().find(|order| {
            let others = [Axis::H, Axis::W].into_iter().filter(|a| !order.contains(a));
            is_nc
                && x.axes.rank() == 2 + order.len()
                && order.iter().enumerate().all(|(i, &axis)| fits(2 + i, axis))
                && !others.into_iter().any(|axis| x.axes.contains(axis))
        });
        match order {
            Some(order) => Ok((x, Spatial(order.to_vec()))),
            None => Err(Error::unsupported(format!(
                "axes {:?}, expected N, C and one or two spatial ones",
                x.axes.0
            ))),
        }
    }

    pub(super) fn conv(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = node.activation(0)?;
        let (x, spatial) = self.spatial(node.name, x)?;
        let is_transposed = spatial.0 == [Axis::W, Axis::H];
        if is_transposed {
            let weights = self.operand_tensor(node, 1)?;
            if weights.dims.len() == 4 {
                self.budget.charge(weights.len())?;
                let transposed = Rc::new(weights.transposed(&[0, 1, 3, 2]));
                node.operands[1] = Some(Value::Constant(transposed));
            }
        }
        let shape = |dims: &[usize]| match dims {
            [_, _, _, _] if spatial.rank() == 2 => Ok(dims.to_vec()),
            &[oc, ic, k] if spatial.rank() == 1 => {
                let [kh, kw] = spatial.pair(&[k], 1);
                Ok(vec![oc, ic, kh, kw])
            }
            _ => Err(Error::shape(format!(
                "weights of shape {dims:?} for {} spatial axes",
                spatial.rank()
            ))),
        };
        let (weights, bias, weight_scales) = match self.int8_operands(node, x.value, |weights| {
            Ok((Rc::clone(weights), shape(&weights.dims)?))
        })? {
            Some(int8) => (int8.weights, int8.bias, Some(int8.scales)),
            None => {
                let weights = self.weights(node, 1, shape)?;
                let bias = match node.operands.get(2) {
                    Some(Some(_)) => Some(self.weights(node, 2, |dims| Ok(dims.to_vec()))?),
                    _ => None,
                };
                (weights, bias, None)
            }
        };
        let groups = node.attributes.int_or("group", 1)?;
        let groups = usize::try_from(groups)
            .map_err(|_| Error::format(format!("attribute 'group' is {groups}")))?;
        let kernel = self.kernel_of(weights);
        let window = self.window(node, &spatial, Some(kernel), self.shape(&x))?;
        let conv = Conv {
            stride: window.stride,
            pad: window.pad,
            dilation: window.dilation,
            groups,
            weight_scales,
            ..Conv::pointwise(weights, bias)
        };
        let value = self.emit(node.name, Op::Conv(conv), &[x.value])?;
        let mut result = self.windowed(&x, &spatial, &window);
        result.value = value;
        if !result.axes.contains(Axis::C) {
            result.axes.0[1] = vec![Axis::C];
        }
        Ok(result)
    }

    fn kernel_of(&self, weights: ConstId) -> [usize; 2] {
        let shape = &self.network.graph.constant(weights).shape;
        [shape[2], shape[3]]
    }

    pub(super) fn pool(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = if node.kind == "MaxPool" { node.elements(0)? } else { node.activation(0)? };
        let (x, spatial) = self.spatial(node.name, x)?;
        let kind = match node.kind {
            "MaxPool" => {
                // How the indices are counted, which are not supported.
                node.attributes.ignore(&["storage_order"]);
                PoolKind::Max
            }
            _ => PoolKind::Average {
                count_include_pad: node.attributes.flag("count_include_pad", false)?,
            },
        };
        let ceil_mode = node.attributes.flag("ceil_mode", false)?;
        let window = self.window(node, &spatial, None, self.shape(&x))?;
        let pool = Pool {
            kind,
            kernel: window.kernel,
            stride: window.stride,
            pad: window.pad,
            dilation: window.dilation,
            ceil_mode,
        };
        let value = self.emit(node.name, Op::Pool(pool), &[x.value])?;
        let mut result = self.windowed(&x, &spatial, &window);
        result.value = value;
        Ok(result)
    }

    /// The axes after a window: spatial axes that may now exceed 1 have a name.
    fn windowed(&self, x: &Activation, spatial: &Spatial, window: &Window) -> Activation {
        let mut result = x.clone();
        let grows = window.pad != Pad::default();
        for (i, group) in result.axes.0.iter_mut().enumerate().skip(2) {
            if group.is_empty() && grows {
                group.push(spatial.0[i - 2]);
            }
        }
        result
    }

    /// Reads a window's attributes. `kernel` is what the weights say.
    fn window(
        &mut self,
        node: &Operation<'a>,
        spatial: &Spatial,
        kernel: Option<[usize; 2]>,
        shape: Shape,
    ) -> Result<Window> {
        let pair = |name: &str, default: Option<usize>| match node.attributes.ints(name)? {
            Some(ints) => {
                let values = sizes(name, ints, spatial.rank())?;
                Ok(Some(spatial.pair(&values, 1)))
            }
            None => Ok(default.map(|d| [d; 2])),
        };
        let declared = pair("kernel_shape", None)?;
        let kernel = match (declared, kernel) {
            (Some(a), Some(b)) if a != b => {
                return Err(Error::shape(format!("kernel_shape {a:?}, but the weights are {b:?}")));
            }
            (_, Some(kernel)) | (Some(kernel), None) => kernel,
            (None, None) => return Err(Error::format("attribute 'kernel_shape' is missing")),
        };
        let stride = pair("strides", Some(1))?.unwrap_or([1; 2]);
        let dilation = pair("dilations", Some(1))?.unwrap_or([1; 2]);
        if [kernel, stride, dilation].concat().contains(&0) {
            return Err(Error::format("a kernel, stride or dilation of 0"));
        }
        let pads = node.attributes.ints("pads")?;
        let pad = match node.attributes.string("auto_pad")?.unwrap_or("NOTSET") {
            "NOTSET" | "" => match pads {
                Some(pads) => {
                    let pads = sizes("pads", pads, 2 * spatial.rank())?;
                    let (before, after) = pads.split_at(spatial.rank());
                    let [top, left] = spatial.pair(before, 0);
                    let [bottom, right] = spatial.pair(after, 0);
                    Pad { top, left, bottom, right }
                }
                None => Pad::default(),
            },
            "VALID" => Pad::default(),
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                let axis = |i: usize, size: usize| {
                    same_padding(size, kernel[i], stride[i], dilation[i], same == "SAME_LOWER")
                };
                let ((top, bottom), (left, right)) = (axis(0, shape.h)?, axis(1, shape.w)?);
                // With stride 1 the padding does not depend on the size.
                if stride != [1; 2] {
                    self.network.graph.fixed_size = true;
                }
                Pad { top, left, bottom, right }
            }
            other => return Err(Error::unsupported(format!("auto_pad '{other}'"))),
        };
        Ok(Window { kernel, stride, pad, dilation })
    }
}

/// Padding before and after that makes the output `ceil(size / stride)` long.
fn same_padding(
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    more_before: bool,
) -> Result<(usize, usize)> {
    let extent = (kernel - 1).checked_mul(dilation).and_then(|e| e.checked_add(1));
    let last = (size.div_ceil(stride) - 1) * stride;
    let needed = extent.and_then(|e| e.checked_add(last));
    let total = needed.ok_or_else(|| Error::shape("the window is too large"))?.saturating_sub(size);
    let less = total / 2;
    Ok(if more_before { (total - less, less) } else { (less, total - less) })
}

/// Non-negative numbers of an attribute of known length.
fn sizes(name: &str, ints: &[i64], len: usize) -> Result<Vec<usize>> {
    if ints.len() != len {
        return Err(Error::format(format!(
            "attribute '{name}' is {ints:?}, expected {len} numbers"
        )));
    }
    ints.iter()
        .map(|&i| usize::try_from(i))
        .collect::<Result<_, _>>()
        .map_err(|_| Error::unsupported(format!("attribute '{name}' is {ints:?}")))
}
