//! Where the bytes of an array lie.

/// An array of any shape and strides, as the order that its bytes have in a file.
pub(crate) struct Layout {
    /// Bytes that lie one behind the other.
    run: usize,
    /// How many runs there are each way and how far apart they are, in bytes; the last way is gone first.
    dimensions: Vec<(usize, isize)>,
    size: usize,
}

/// Equal runs at equal distances.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    /// From the first element of the array to the first byte.
    pub(crate) start: isize,
    /// From one run to the next.
    pub(crate) stride: isize,
    /// Bytes of a run, and how many runs.
    pub(crate) length: usize,
    pub(crate) count: usize,
}

impl Runs {
    /// Bytes of all of them.
    pub(crate) fn size(&self) -> usize {
        self.length * self.count
    }
}

impl Layout {
    /// Bytes one behind the other.
    pub(crate) fn contiguous(size: usize) -> Self {
        Self { run: size, dimensions: Vec::new(), size }
    }

    /// Elements of `item` bytes.
    pub(crate) fn strided(item: usize, shape: &[usize], strides: &[isize]) -> Self {
        let size = item * shape.iter().product::<usize>();
        let mut run = item;
        let mut dimensions: Vec<(usize, isize)> =
            shape.iter().copied().zip(strides.iter().copied()).collect();
        dimensions.retain(|(length, _)| *length != 1);
        while let Some(&(length, stride)) = dimensions.last() {
            if stride != run as isize {
                break;
            }
            run *= length;
            dimensions.pop();
        }
        Self { run, dimensions, size }
    }

    /// How many bytes there are.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Whether all of them lie one behind the other.
    pub(crate) fn is_one_run(&self) -> bool {
        self.run == self.size
    }

    /// Passes on where the `length` bytes from `offset` on lie, in order. There are as many.
    pub(crate) fn runs(&self, offset: usize, length: usize, mut each: impl FnMut(Runs)) {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let (number, skipped) = (at / self.run, at % self.run);
            let (inner, stride) = self.dimensions.last().copied().unwrap_or((1, 0));
            let start = self.start_of(number) + skipped as isize;
            let left = end - at;
            // A run that is begun in its middle or left before its end is passed on alone.
            let runs = if skipped > 0 || left < self.run {
                Runs { start, stride, length: left.min(self.run - skipped), count: 1 }
            } else {
                let count = (inner - number % inner).min(left / self.run);
                Runs { start, stride, length: self.run, count }
            };
            at += runs.size();
            each(runs);
        }
    }

    /// From the first element to run `number`.
    fn start_of(&self, mut number: usize) -> isize {
        let mut start = 0;
        for &(length, stride) in self.dimensions.iter().rev() {
            start += (number % length) as isize * stride;
            number /= length;
        }
        start
    }
}
