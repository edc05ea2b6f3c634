#include "optim/distributed.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "base/format.h"
#include "comm/ranks.h"

namespace ponte {
namespace {

// Sums of doubles over the ranks, in rank order.
std::vector<double> sums_over(Group& group, const std::vector<double>& mine) {
  const auto n = static_cast<int64_t>(mine.size());
  at::Tensor values = at::empty({n}, at::kDouble);
  std::copy(mine.begin(), mine.end(), values.data_ptr<double>());
  group.all_reduce(values, ReduceOp::sum);
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + n};
}

}  // namespace

GradientReport measure_over(const AdamW& optimizer, Group& everyone, double gradient_scale, AdamW::Zeros zeros) {
  GradientReport report = optimizer.measure(gradient_scale, zeros);
  if (everyone.size() == 1) return report;
  const std::vector<double> sums = sums_over(everyone, {report.squares, static_cast<double>(report.zeros)});
  report.squares = sums[0];
  report.zeros = static_cast<int64_t>(sums[1]);
  report.norm = std::sqrt(sums[0]) * gradient_scale;
  if (std::isfinite(sums[0])) return report;
  std::vector<std::string> names;
  for (const std::string& text : gather_text(everyone, join(report.non_finite, "\n")))
    for (std::string& name : split(text, '\n'))
      if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  report.non_finite = std::move(names);
  return report;
}

double parameter_norm_over(const AdamW& optimizer, Group& everyone) {
  const double mine = optimizer.parameter_squares();
  return std::sqrt(everyone.size() == 1 ? mine : sums_over(everyone, {mine})[0]);
}

}  // namespace ponte
