// The loop of the regions family: a formula of sums over the pixels of a class.
//
// 1. Two passes. The first adds up each region, the formula then runs on all regions at once, and the second writes the
//    gradient from its derivatives. Between them the memory of the gradient holds the probabilities, if it is as wide
//    as they are: nothing else is allocated, and there is one exponential for each score. Halves compute them twice.
// 2. A tile is all classes of a few hundred pixels, rows of classes in L1, whatever the layout in memory: channels-last
//    tensors are transposed on the way in and out. A row is a loop over pixels, so that all classes cost the same.
//    Where classes have nothing in common, neither softmax nor labels, a tile is of one: memory is then read in its
//    order.
// 3. p and 1 - p have their own digits. Of a softmax only the largest class can be near 1; what it lacks is the others'
//    sum. The gradient through the softmax is taken about this class, for the same reason.
// 4. Sums are in double: of the strips of a block, then of the blocks, in an order that threads do not change. The
//    formula is evaluated in double, too, since there are few regions.
// 5. Labels are compared with the class of a row; there is no one-hot target.
// 6. With reduction 'none' there is no gradient in forward: through a softmax a score has a part in several losses.
#include "inside.h"
#include "regions_tile.h"

namespace losskit {
namespace {

// Where the first number outside [0, 1] stands, -1 if there is none.
template <class T> LOSSKIT_CLONES bool any_beyond(const T* x, T slack, int64_t n) {
  Index<T> found = 0;
  for (int64_t i = 0; i < n; ++i) found |= (x[i] < -slack) | (x[i] > 1 + slack);
  return found != 0;
}
template <class T> int64_t first_outside(const T* x, const T* kept, T slack, int64_t n) {
  const Bounded<T> alone{x, bound_of<T>({kInterval, 0, 0, 0.0, 1.0}), 0};
  if (surely_inside<T, 1>(&alone, n) || !any_beyond(x, slack, n)) return -1;
  for (int64_t i = 0; i < n; ++i)
    if ((x[i] < -slack || x[i] > 1 + slack) && !(kept && kept[i] == 0)) return i;
  return -1;
}

// The bad values of a tile: told, or their regions made NaN.
template <class T> struct Inspection {
  Job& job;
  Tile<T>& tile;
  Region* regions;

  void poison(int64_t c) {
    if (c >= job.background) regions[c].sums[0].high = not_a_number<double>;
  }
  void found(int64_t rank, int64_t violation, int64_t c, int64_t i, std::variant<double, int64_t> value) {
    if (job.options.checks != kRaise) {
      for (int64_t k = c < 0 ? 0 : c; k < (c < 0 ? job.classes : c + 1); ++k) poison(k);
      return;
    }
    int64_t place = place_of(job.pixels, tile.at + i);
    const int64_t sample = job.batch ? place / job.pixels_each : tile.sample;
    place = job.batch ? place % job.pixels_each : place;
    place += (c < 0 ? sample : sample * job.classes + c) * job.pixels_each;
    job.report({rank, place, violation, place, value});
  }
  void labels() {
    for (int64_t i = 0; i < tile.n; ++i)
      if (tile.s.label[i] == -2) {
        found(1, kClassIndex, -1, i, tile.indices[i]);
        if (job.options.checks != kRaise) return;
      }
  }
  void numbers(int tensor, int64_t violation) {
    int64_t apart;
    T* const buffer = tensor == kShares ? tile.s.target.data() : tile.s.scores.data();
    const T* x = tile.rows(tensor, buffer, apart);
    const T slack = static_cast<T>(slack_of(job.tensors[tensor].dtype));
    for (int64_t c = tile.start(); c < job.joint; ++c) {
      const int64_t own = tile.first + c;
      if (!job.counts[job.unit_of(tile.sample, own - job.background)]) continue;
      const int64_t i = first_outside(x + c * apart, tile.dropped ? tile.s.kept : nullptr, slack, tile.n);
      if (i >= 0) found(tensor == kShares, violation, own, i, static_cast<double>(x[c * apart + i]));
    }
  }
};

// Whether the first numbers of a call look like probabilities where scores are expected.
template <class T> bool like_probabilities(const Job& job, const Tile<T>& tile) {
  int64_t apart;
  const T* z = tile.rows(kScores, tile.s.scores.data(), apart);
  for (int64_t c = 0; c < job.joint; ++c)
    for (int64_t i = 0; i < std::min<int64_t>(tile.n, 16); ++i)
      if (!(z[c * apart + i] >= 0 && z[c * apart + i] <= 1)) return false;
  return true;
}

// The tiles of a block of strips, in order.
template <class T, class Visit> void each_tile(const Job& job, Scratch<T>& scratch, int64_t block, const Visit& visit) {
  const int64_t sample = block / job.blocks, begin = block % job.blocks * job.together;
  const int64_t end = std::min(begin + job.together, job.outer * job.strips);
  for (int64_t first = 0; first < job.classes; first += job.joint)
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t from = strip % job.strips * job.width;
      Tile<T> tile(job, scratch, sample, first, strip / job.strips, from, std::min(job.width, job.inner - from));
      visit(tile);
    }
}

template <class T> void add_blocks(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Scratch<T> scratch(job);
  const bool checked = job.options.checks != kOff;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t sample = block / job.blocks;
    Region* const regions = &job.partial[block * job.classes];
    bool alive = false;
    for (int64_t c = 0; c < job.own; ++c) alive |= job.counts[job.unit_of(sample, c)] != 0;
    if (!alive) continue;  // what the mask hides is not read
    each_tile(job, scratch, block, [&](Tile<T>& tile) {
      tile.prefetch(true, job.keeps);
      const int found = tile.look();
      job.seen[block] |= (found & 4) != 0;
      tile.add(regions);
      Inspection<T> inspection{job, tile, regions};
      if (found & 2) inspection.labels();
      if (checked && job.soft && job.tensors[kShares].dtype != DType::kBool) inspection.numbers(kShares, kTarget);
      if (checked && job.activation == Activation::kNone) inspection.numbers(kScores, kProbability);
      if (checked && block == 0 && tile.at == 0 && tile.first == 0 && job.activation != Activation::kNone)
        job.looks_odd = like_probabilities(job, tile);
    });
  }
}

template <class T> void write_blocks(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Scratch<T> scratch(job);
  for (int64_t block = end; block-- > begin;)  // what was read last is still in a cache
    each_tile(job, scratch, block, [&](Tile<T>& tile) {
      tile.prefetch(!job.keeps, true);
      tile.look();
      tile.write(&job.slopes[block / job.blocks * job.classes]);
    });
}

// --------------------------------------------------------------------------------------------------------
// The arguments

bool Job::read(const Inputs& in) {
  const auto family = options.family;
  activation = static_cast<Activation>(wire::regions::activation(family));
  batch = wire::regions::batch(family), pooled = wire::regions::pooled(family);
  background = wire::regions::background(family) ? 0 : 1;
  ignored = static_cast<int64_t>(in.numbers[wire::regions::kIgnoreIndex]);
  const bool masked = wire::regions::masked(family);
  if (in.operands.size() != size_t(2 + masked + pooled)) return false;
  const Tensor &a = in.operands[0], &b = in.operands[1];
  const int dims = static_cast<int>(a.dim());
  if (dims < 2 || dims > kDims || !a.is_cpu() || !b.is_cpu() || kernel->abi != kAbi) return false;
  const auto sizes = a.sizes(), strides = a.strides();
  const DType target = dtype_of(b);
  result = gradient_dtypes[0] = dtype_of(a);
  if (!floating(result) || !known(target)) return false;
  result = promote(result, target);
  compute = result == DType::kDouble ? DType::kDouble : DType::kFloat;
  classes = sizes[1], own = classes - background, soft = b.dim() == a.dim();
  if (wire::regions::squares(family))
    measure = Measure::kSquares;
  else if (wire::regions::smaller(family) && soft)  // of 0 and 1 it is the product
    measure = Measure::kSmaller;
  if (classes == 1 && (background || activation == kSoftmax || !soft)) return false;
  if (own < 0) return false;
  if (!soft && (floating(target) || target == DType::kBool || b.dim() != a.dim() - 1)) return false;
  if (soft && ignored >= 0) return false;  // Python says why
  const auto target_sizes = b.sizes();
  for (int d = 0; d < dims; ++d)
    if (soft ? target_sizes[d] != sizes[d] : d != 1 && target_sizes[d - (d > 1)] != sizes[d]) return false;

  // The walk over the pixels of a sample; those of all samples are one region with `batch`.
  samples = batch ? 1 : sizes[0];
  std::vector<int64_t> own_sizes, own_strides;
  if (batch) own_sizes.push_back(sizes[0]), own_strides.push_back(strides[0]);
  pixels_each = 1;
  for (int d = 2; d < dims; ++d) {
    own_sizes.push_back(sizes[d]), own_strides.push_back(strides[d]);
    pixels_each *= sizes[d];
  }
  start(pixels, static_cast<int>(own_sizes.size()), own_sizes.data(), own_strides.data());
  const auto take = [&](int k, const Tensor& tensor, bool of_classes) {
    const auto steps = tensor.strides();
    const int64_t more = of_classes ? 2 : 1;  // dimensions before those of space
    tensors[k].dtype = dtype_of(tensor);
    tensors[k].data = static_cast<const char*>(tensor.data_ptr());
    if (!tensors[k].data) tensors[k].data = reinterpret_cast<const char*>(this);  // empty: present, never read
    for (int i = 0; i < pixels.dims; ++i) {
      const int d = pixels.order[i] - batch;
      tensors[k].strides[i] = d < 0 ? steps[0] : steps[d + more];
    }
    by_sample[k] = batch ? 0 : steps[0];
    by_class[k] = of_classes ? steps[1] : 0;
  };
  take(kScores, a, true);
  take(kShares, b, soft);
  if (masked) {
    const Tensor& c = in.operands[2];
    if (!c.is_cpu() || dtype_of(c) != DType::kBool || c.dim() != dims - 1) return false;
    for (int d = 0; d < dims - 1; ++d)
      if (c.sizes()[d] != sizes[d + (d > 0)]) return false;
    take(kPixels, c, false);
  }
  // The walk over the losses.
  int64_t shape[2], steps[2];
  int loss_dims = 0;
  if (!batch) shape[loss_dims++] = sizes[0];
  if (!pooled) shape[loss_dims++] = own;
  for (int d = loss_dims - 1; d >= 0; --d)
    steps[d] = d + 1 < loss_dims ? steps[d + 1] * std::max<int64_t>(shape[d + 1], 1) : 1;
  start(walk, loss_dims, shape, steps);
  return read_weights(in);
}

// The weights of classes, and those with which classes are pooled.
bool Job::read_weights(const Inputs& in) {
  if (in.weight) {
    const Tensor& w = *in.weight;
    Source& source = sources[kWeight];
    source.dtype = dtype_of(w);
    if (pooled || !w.is_cpu() || !floating(source.dtype) || w.dim() != 1 || w.sizes()[0] != classes) return false;
    if (is_half(source.dtype) && !is_half(gradient_dtypes[0])) return false;  // Python refuses it
    source.data = static_cast<const char*>(w.data_ptr()) + background * w.strides()[0] * size_of(source.dtype);
    for (int i = 0; i < walk.dims; ++i) source.strides[i] = walk.order[i] == walk.dims - 1 ? w.strides()[0] : 0;
  }
  if (!pooled) return true;
  const Tensor& w = in.operands.back();
  const int dims = batch ? 1 : 2;
  if (!w.is_cpu() || !floating(dtype_of(w)) || w.dim() != dims) return false;
  if (w.sizes()[dims - 1] != own || (!batch && w.sizes()[0] != samples)) return false;
  pool.resize(samples * own);
  const char* data = static_cast<const char*>(w.data_ptr());
  for (int64_t n = 0; n < samples && own; ++n)
    read_run(dtype_of(w), data + (batch ? 0 : n * w.strides()[0]) * size_of(dtype_of(w)), w.strides()[dims - 1], own,
             &pool[n * own]);
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const Tensor& a = in.operands[0];
  const auto sizes = a.sizes();
  if (options.reduction != kElements || in.upstream) {
    const auto dense = allocate_like(*this, out, 0, a);
    Source& source = tensors[kGradient];
    source.dtype = gradient_dtypes[0], source.data = gradients[0];
    for (int i = 0; i < pixels.dims; ++i) {
      const int d = pixels.order[i] - batch;
      source.strides[i] = dense[d < 0 ? 0 : d + 2];
    }
    by_sample[kGradient] = batch ? 0 : dense[0], by_class[kGradient] = dense[1];
    keeps = gradients[0] && gradient_dtypes[0] == compute && activation != Activation::kNone;
    if (activation == kSigmoid && by_class[kScores] == 1 && classes > 1) keeps = false;  // transposing costs more
  }
  merge<kTensors>(pixels, tensors);
  inner = pixels.dims ? pixels.sizes[pixels.dims - 1] : std::min<int64_t>(1, pixels.numel);
  outer = inner ? pixels.numel / inner : 0;
  const bool interleaved = tensors[kScores].present() && by_class[kScores] == 1 && classes > 1;
  joint = activation == kSoftmax || !soft || interleaved ? classes : 1;
  const int64_t fitting = kRoom / size_of(compute) / std::max<int64_t>(joint, 1) / (interleaved ? 4 : 1);
  width = std::max<int64_t>(1, std::min({inner, kLongest, std::max<int64_t>(16, fitting / 16 * 16)}));
  strips = (inner + width - 1) / width;
  together = std::max<int64_t>(1, kGrain / (width * std::max<int64_t>(classes, 1)));
  blocks = (outer * strips + together - 1) / together;
}

// --------------------------------------------------------------------------------------------------------
// The sums, the losses and their derivatives

void Job::add_up() {
  if (summed) return;
  summed = true;
  Weights scratch;
  counts.assign(units(), 1);
  for (int64_t begin = 0; begin < units(); begin += kBlock) {
    const int64_t n = std::min(kBlock, units() - begin);
    if (const float* mask = mask_of(*this, begin, n, scratch))
      for (int64_t i = 0; i < n; ++i) counts[begin + i] = mask[i] != 0.0f;
  }
  const int64_t all = samples * blocks;
  partial.resize(all * classes), seen.resize(all);
  run_parallel(all, std::max<int64_t>(1, kGrain / (together * width * std::max<int64_t>(classes, 1))),
               compute == DType::kDouble ? add_blocks<double> : add_blocks<float>, this);
  finish_regions();
}

void Job::finish_regions() {
  regions.resize(samples * classes);
  for (int64_t n = 0; n < samples; ++n) {
    bool any = false, weighs = !pooled;
    for (int64_t block = n * blocks; block < (n + 1) * blocks; ++block) {
      any |= seen[block] != 0;
      for (int64_t c = 0; c < classes; ++c)
        for (int k = 0; k < kSums; ++k) regions[n * classes + c].sums[k].add(partial[block * classes + c].sums[k]);
    }
    for (int64_t c = 0; c < own && pooled; ++c) weighs |= pool[n * own + c] != 0.0;
    for (int64_t unit = unit_of(n, 0); unit < unit_of(n + 1, 0); ++unit) counts[unit] &= any && weighs;
  }
}

double Job::counted() {
  add_up();
  Weights scratch;
  Sum sum;
  for (int64_t begin = 0; begin < units(); begin += kBlock) {
    const int64_t n = std::min(kBlock, units() - begin);
    const double* factor = factors(*this, {kWeight, kSampleWeight}, begin, n, scratch);
    for (int64_t i = 0; i < n; ++i)
      if (counts[begin + i]) sum.add(factor ? factor[i] : 1.0);
  }
  return sum.value();
}

// What a statistic is, of the sums of a region.
double told(Spoken statistic, const double* s, bool squares) {
  switch (statistic) {
    case Spoken::kPredicted:
      return squares ? s[1] : s[0] + s[1];
    case Spoken::kActual:
      return squares ? s[2] : s[0] + s[2];
    case Spoken::kFalsePositives:
      return squares ? 0.5 * s[3] : s[1];
    case Spoken::kFalseNegatives:
      return squares ? 0.5 * s[3] : s[2];
    default:
      return s[0];
  }
}

void Job::evaluate() {
  Weights scratch;
  const int count = kernel->operands;
  const bool squares = measure == Measure::kSquares;
  const bool wanted = gradients[0] != nullptr;
  std::vector<double> operands[kOperands], derivatives[kOperands], values(kBlock);
  slopes.resize(wanted ? samples * classes : 0);
  losses.resize(units());
  for (int k = 0; k < count; ++k) operands[k].resize(kBlock), derivatives[k].resize(kBlock);
  for (int64_t begin = 0; begin < units(); begin += kBlock) {
    const int64_t n = std::min(kBlock, units() - begin);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = begin + i, sample = pooled ? unit : unit / own, single = pooled ? 0 : unit % own;
      double s[kSums] = {};
      for (int64_t c = single; c < (pooled ? own : single + 1); ++c)
        for (int k = 0; k < kSums; ++k) {
          const double sum = regions[sample * classes + background + c].sums[k].value();
          s[k] += pooled ? sum * pool[unit * own + c] : sum;
        }
      for (int k = 0; k < count; ++k) operands[k][i] = told(wire::regions::statistics(options.family, k), s, squares);
    }
    const double* given[kOperands] = {};
    double* out[kOperands] = {};
    for (int k = 0; k < count; ++k) given[k] = operands[k].data(), out[k] = derivatives[k].data();
    kernel->f64[wanted ? kPredictions : kNone](n, given, parameters, 1.0, values.data(), out);
    const double* factor = factors(*this, {kWeight, kSampleWeight, kUpstream}, begin, n, scratch);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t unit = begin + i, sample = pooled ? unit : unit / own, single = pooled ? 0 : unit % own;
      losses[unit] = !counts[unit] ? 0.0 : factor ? values[i] * factor[i] : values[i];
      total.add(losses[unit]);
      if (!wanted || !counts[unit]) continue;
      double by[6] = {};
      for (int k = 0; k < count; ++k)
        by[static_cast<int>(wire::regions::statistics(options.family, k))] += derivatives[k][i];
      const double overlap = by[1], predicted = by[2], positives = by[4], negatives = by[5];
      const double weigh = (factor ? factor[i] : 1.0) * scale;
      for (int64_t c = single; c < (pooled ? own : single + 1); ++c) {
        const double own_weight = pooled ? weigh * pool[unit * own + c] : weigh;
        Slopes& slope = slopes[sample * classes + background + c];
        slope.alive = true;
        slope.factors[0] = own_weight * (squares ? overlap : overlap - negatives + predicted);
        slope.factors[1] = own_weight * (squares ? 2.0 * predicted : positives + predicted);
        slope.factors[2] = own_weight * (positives + negatives);
        if (measure == Measure::kSmaller) slope.factors[2] = 0.5 * (slope.factors[0] + slope.factors[1]);
      }
    }
  }
}

Work Job::divide() {
  add_up();
  const bool writes = gradients[0] != nullptr && !first.violation;
  evaluate();
  if (values) write_run(result, losses.data(), units(), values);
  return {writes ? samples * blocks : 0, together * width * classes,
          compute == DType::kDouble ? write_blocks<double> : write_blocks<float>};
}

}  // namespace

Result regions(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(regions)
