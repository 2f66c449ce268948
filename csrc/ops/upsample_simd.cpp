// SPDX-License-Identifier: Apache-2.0
// Inputs: rows of logits and tap tables. Outputs: one row of labels and scores, or of resized logits, written or added.
// The argmax is bound by arithmetic (per output pixel and class one permutation and one fused multiply-add per tap, a
// compare and two selects, all in registers), the plain resize by the memory it writes.
#include "ops/upsample_simd.h"

#include "common/vec.h"

namespace deeplab::DEEPLAB_ISA {
namespace {

template <int Taps>
void combine_rows_of(const float* logits, int64_t channels, int64_t height, int64_t width, const int32_t* index,
                     const float* weight, float* combined, int64_t stride) {
  for (int64_t c = 0; c < channels; ++c) {
    const float* plane = logits + c * height * width;
    const float* row[Taps];
    for (int k = 0; k < Taps; ++k) row[k] = plane + index[k] * width;
    float* target = combined + c * stride;
    int64_t x = 0;
    for (; x + Vec::width <= width; x += Vec::width) {
      Vec sum = load(row[0] + x) * broadcast(weight[0]);
      for (int k = 1; k < Taps; ++k) sum = fma(load(row[k] + x), broadcast(weight[k]), sum);
      store(target + x, sum);
    }
    for (; x < width; ++x) {
      float sum = row[0][x] * weight[0];
      for (int k = 1; k < Taps; ++k) sum += row[k][x] * weight[k];
      target[x] = sum;
    }
  }
}

void combine_rows(const float* logits, int64_t channels, int64_t height, int64_t width, const int32_t* index,
                  const float* weight, int64_t taps, float* combined, int64_t stride) {
  // Taps of weight 0 (clamped borders, identity resizes) are not read.
  int32_t used_index[4];
  float used_weight[4];
  int used = 0;
  for (int64_t k = 0; k < taps; ++k) {
    if (weight[k] == 0.0f) continue;
    used_index[used] = index[k];
    used_weight[used++] = weight[k];
  }
  if (used == 0) used_index[0] = index[0], used_weight[used++] = 0.0f;
  constexpr decltype(&combine_rows_of<1>) by_taps[] = {combine_rows_of<1>, combine_rows_of<2>, combine_rows_of<3>,
                                                       combine_rows_of<4>};
  by_taps[used - 1](logits, channels, height, width, used_index, used_weight, combined, stride);
}

template <int Taps, bool Compact>
inline Vec interpolate(const float* source, const VecInt* index, const Vec* weight) {
  Vec line{};
  if constexpr (Compact) line = load(source);
  Vec value{};
  for (int k = 0; k < Taps; ++k) {
    Vec tap;
    if constexpr (Compact) {
      tap = permute(line, index[k]);
    } else {
      tap = gather(source, index[k]);
    }
    value = k == 0 ? tap * weight[0] : fma(tap, weight[k], value);
  }
  return value;
}

template <int Taps, bool Compact, bool Scores>
inline void argmax_block(const float* source, int64_t stride, int64_t channels, const int32_t* block_index,
                         const float* block_weight, int32_t* labels, float* scores) {
  VecInt index[Taps];
  Vec weight[Taps];
  for (int k = 0; k < Taps; ++k) {
    index[k] = load(block_index + k * Vec::width);
    weight[k] = load(block_weight + k * Vec::width);
  }
  const Vec lowest = broadcast(-INFINITY);
  Vec best = lowest;
  VecInt label = broadcast(int32_t{0});
  Vec sum = broadcast(0.0f);  // of exp(value - best), rescaled whenever best rises
  for (int64_t c = 0; c < channels; ++c, source += stride) {
    const Vec value = interpolate<Taps, Compact>(source, index, weight);
    const Mask better = value > best;
    if constexpr (Scores) {
      const Vec ratio = exp_of_nonpositive(negative_abs(value - best));
      const Vec one = broadcast(1.0f);
      sum = fma(sum, select(better, ratio, one), select(better, one, ratio));
    }
    best = select(better, value, best);
    label = select(better, broadcast(static_cast<int32_t>(c)), label);
  }
  store(labels, label);
  if constexpr (Scores) store(scores, select(best > lowest, broadcast(1.0f) / sum, broadcast(NAN)));
}

template <int Taps, bool Scores>
void argmax_columns_of(const float* combined, int64_t stride, int64_t channels, const ColumnPlan& plan, int32_t* labels,
                       float* scores) {
  for (int64_t block = 0; block < plan.blocks; ++block) {
    const float* source = combined + plan.first[block];
    const int64_t table = block * Taps * Vec::width;
    const int64_t output = block * Vec::width;
    const auto run = plan.compact[block] ? argmax_block<Taps, true, Scores> : argmax_block<Taps, false, Scores>;
    run(source, stride, channels, plan.index + table, plan.weight + table, labels + output,
        Scores ? scores + output : nullptr);
  }
}

template <bool Scores>
void argmax_columns_with(const float* combined, int64_t stride, int64_t channels, const ColumnPlan& plan,
                         int32_t* labels, float* scores) {
  constexpr decltype(&argmax_columns_of<1, Scores>) by_taps[] = {
      argmax_columns_of<1, Scores>, argmax_columns_of<2, Scores>, argmax_columns_of<3, Scores>,
      argmax_columns_of<4, Scores>};
  by_taps[plan.taps - 1](combined, stride, channels, plan, labels, scores);
}

void argmax_columns(const float* combined, int64_t stride, int64_t channels, const ColumnPlan& plan, int32_t* labels,
                    float* scores) {
  if (scores != nullptr) {
    argmax_columns_with<true>(combined, stride, channels, plan, labels, scores);
  } else {
    argmax_columns_with<false>(combined, stride, channels, plan, labels, scores);
  }
}

enum class Put { store, stream, add };

template <int Taps, Put How>
void put_columns(const float* combined, const ColumnPlan& plan, float* target, int64_t columns) {
  for (int64_t block = 0; block < plan.blocks; ++block) {
    const float* source = combined + plan.first[block];
    VecInt index[Taps];
    Vec weight[Taps];
    for (int k = 0; k < Taps; ++k) {
      index[k] = load(plan.index + (block * Taps + k) * Vec::width);
      weight[k] = load(plan.weight + (block * Taps + k) * Vec::width);
    }
    const Vec value = plan.compact[block] ? interpolate<Taps, true>(source, index, weight)
                                          : interpolate<Taps, false>(source, index, weight);
    const int64_t x = block * Vec::width;
    if (x + Vec::width <= columns) {
      if constexpr (How == Put::store) store(target + x, value);
      if constexpr (How == Put::stream) stream(target + x, value);
      if constexpr (How == Put::add) store(target + x, load(target + x) + value);
    } else {
      float last[Vec::width];
      store(last, value);
      for (int64_t i = 0; x + i < columns; ++i) target[x + i] = How == Put::add ? target[x + i] + last[i] : last[i];
    }
  }
}

template <Put How>
void put_columns_of(const float* combined, const ColumnPlan& plan, float* target, int64_t columns) {
  constexpr decltype(&put_columns<1, How>) by_taps[] = {put_columns<1, How>, put_columns<2, How>, put_columns<3, How>,
                                                        put_columns<4, How>};
  by_taps[plan.taps - 1](combined, plan, target, columns);
}

void expand_columns(const float* combined, const ColumnPlan& plan, float* target, int64_t columns, bool past_caches) {
  const auto run = past_caches ? put_columns_of<Put::stream> : put_columns_of<Put::store>;
  run(combined, plan, target, columns);
}

void add_columns(const float* combined, const ColumnPlan& plan, float* target, int64_t columns) {
  put_columns_of<Put::add>(combined, plan, target, columns);
}

void divide(const float* sum, const float* visits, float factor, float* target, int64_t columns, bool past_caches) {
  int64_t x = 0;
  const auto aligned = [&] { return reinterpret_cast<uintptr_t>(target + x) % (Vec::width * sizeof(float)) == 0; };
  for (; past_caches && x < columns && !aligned(); ++x) target[x] = sum[x] / (visits[x] * factor);
  for (; x + Vec::width <= columns; x += Vec::width) {
    const Vec value = load(sum + x) / (load(visits + x) * broadcast(factor));
    past_caches ? stream(target + x, value) : store(target + x, value);
  }
  for (; x < columns; ++x) target[x] = sum[x] / (visits[x] * factor);
}

}  // namespace

extern const UpsampleKernels upsample_kernels;
const UpsampleKernels upsample_kernels{Vec::width, combine_rows, argmax_columns, expand_columns, add_columns, divide};

}  // namespace deeplab::DEEPLAB_ISA
