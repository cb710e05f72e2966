//! Means over whole axes.

use super::{Activation, Importer, Operation};
use crate::error::{Error, Result};
use crate::graph::{Axis, Conv, Op, Pad, Pool, PoolKind, ValueId};
use crate::import::onnx::axes::resolve_axes;

impl<'a> Importer<'a> {
    pub(super) fn global_average_pool(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = node.activation(0)?;
        let mut x = self.spatial(node.name, x)?.0;
        x.value = self.emit(node.name, Op::GlobalAveragePool, &[x.value])?;
        x.axes.drop_axis(Axis::H);
        x.axes.drop_axis(Axis::W);
        Ok(x)
    }

    pub(super) fn reduce_mean(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let keep = node.attributes.flag("keepdims", true)?;
        let noop = node.attributes.flag("noop_with_empty_axes", false)?;
        let axes = self.axes_operand(node, 18)?.unwrap_or_default();
        let mut x = node.activation(0)?;
        let reduced = match &axes[..] {
            [] if noop => return Ok(x),
            [] => (0..x.axes.rank()).collect(),
            axes => resolve_axes(axes, x.axes.rank())?,
        };
        let over: Vec<Axis> = reduced.iter().flat_map(|&i| x.axes.0[i].clone()).collect();
        if over.contains(&Axis::N) {
            return Err(Error::unsupported("a mean over the batch"));
        }
        let spatial = [Axis::H, Axis::W].map(|a| over.contains(&a));
        let left = [Axis::H, Axis::W].map(|a| x.axes.contains(a) && !over.contains(&a));
        if spatial.contains(&true) {
            x.value = self.spatial_mean(node.name, &x, spatial, left)?;
        }
        if over.contains(&Axis::C) {
            let c = self.shape(&x).c;
            self.budget.charge(c)?;
            let mean = vec![1.0 / c as f32; c];
            let weights =
                self.network.add_constant(&format!("{}.mean", node.name), &[1, c, 1, 1], mean);
            let mean = Op::Conv(Conv::pointwise(weights, None));
            x.value = self.emit(node.name, mean, &[x.value])?;
        }
        over.into_iter().for_each(|axis| x.axes.drop_axis(axis));
        if !keep {
            let mut i = 0..;
            x.axes.0.retain(|_| !reduced.contains(&i.next().unwrap_or_default()));
        }
        Ok(x)
    }

    /// The mean over height, width or both; `left` says which of them remain.
    fn spatial_mean(
        &mut self,
        name: &str,
        x: &Activation,
        spatial: [bool; 2],
        left: [bool; 2],
    ) -> Result<ValueId> {
        if left == [false; 2] {
            return self.emit(name, Op::GlobalAveragePool, &[x.value]);
        }
        let shape = self.shape(x);
        self.network.graph.fixed_size = true;
        let kernel = [if spatial[0] { shape.h } else { 1 }, if spatial[1] { shape.w } else { 1 }];
        let pool = Pool {
            kind: PoolKind::Average { count_include_pad: false },
            kernel,
            stride: [1; 2],
            pad: Pad::default(),
            dilation: [1; 2],
            ceil_mode: false,
        };
        self.emit(name, Op::Pool(pool), &[x.value])
    }
}
