#include "parallel/bucket.h"

#include <ATen/ATen.h>

#include "base/errors.h"

namespace ponte {
namespace {

at::ScalarType gradient_type(const at::Tensor& value) { return value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }
int64_t row_elements(const Parameter& p) { return p.slice.shape[0] == 0 ? 0 : p.value.numel() / p.slice.shape[0]; }

std::vector<int64_t> rows_shape(const Parameter& p, Rows rows) {
  std::vector<int64_t> out = p.slice.shape;
  out[0] = rows.count();
  return out;
}

int64_t sum(std::span<const int64_t> numbers) {
  int64_t out = 0;
  for (const int64_t n : numbers) out += n;
  return out;
}

}  // namespace

Buffer::Buffer(int64_t elements, const c10::TensorOptions& options) : flat_(at::empty({elements}, options)) { release(); }

at::Tensor Buffer::view(int64_t first, c10::IntArrayRef shape) const {
  at::Tensor out = at::empty({0}, flat_.options());
  out.unsafeGetTensorImpl()->set_storage_keep_dtype(flat_.storage());
  out.unsafeGetTensorImpl()->set_storage_offset(first);
  out.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  return out;
}

bool Buffer::is_present() const { return flat_.numel() == 0 || flat_.storage().nbytes() > 0; }

void Buffer::take(at::Tensor contents) {
  PONTE_ASSERT(contents.is_contiguous() && contents.numel() == flat_.numel() && contents.scalar_type() == flat_.scalar_type());
  if (contents.storage_offset() != 0 || contents.storage().nbytes() != flat_.nbytes()) contents = contents.clone();
  const size_t bytes = contents.storage().nbytes();
  flat_.storage().set_data_ptr_noswap(contents.storage().set_data_ptr(at::DataPtr(nullptr, flat_.device())));
  flat_.storage().set_nbytes(bytes);
  contents.storage().set_nbytes(0);
}

void Buffer::release() {
  flat_.storage().set_data_ptr_noswap(at::DataPtr(nullptr, flat_.device()));
  flat_.storage().set_nbytes(0);
}

Bucket::Bucket(std::vector<Parameter*> parameters, std::shared_ptr<Group> sharers, std::shared_ptr<Group> copies, const Settings& settings)
    : settings_(settings), sharers_(std::move(sharers)), copies_(std::move(copies)) {
  std::vector<Extent> extents, part;
  for (const Parameter* p : parameters) {
    PONTE_ASSERT(p->value.is_contiguous() && p->value.dim() >= 1);
    extents.push_back({p->slice.shape[0], row_elements(*p)});
    elements_ += p->value.numel();
  }
  const auto parts = share_rows(extents, sharers_->size());
  const auto rank = static_cast<size_t>(sharers_->rank()), copy = static_cast<size_t>(copies_->rank());
  for (size_t i = 0; i < extents.size(); ++i) part.push_back({parts[rank][i].count(), extents[i].row_elements});
  const auto owns = share_rows(part, copies_->size());
  part_elements_.assign(parts.size(), 0);
  own_elements_.assign(owns.size(), 0);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const int64_t first = parts[rank][i].begin;
    Member m{parameters[i], {}, {first + owns[copy][i].begin, first + owns[copy][i].end}};
    for (size_t p = 0; p < parts.size(); ++p) {
      m.parts.push_back(parts[p][i]);
      part_elements_[p] += parts[p][i].count() * extents[i].row_elements;
    }
    for (size_t c = 0; c < owns.size(); ++c) own_elements_[c] += owns[c][i].count() * extents[i].row_elements;
    members_.push_back(std::move(m));
  }
  const at::Tensor& first = parameters[0]->value;
  const c10::TensorOptions options = first.options().device(settings.device).requires_grad(false);
  place_values(options);
  if (is_trained()) place_gradients(options.dtype(gradient_type(first)));
}

bool Bucket::is_trained() const { return members_[0].parameter->value.requires_grad(); }

Rows Bucket::updated(const Member& m) const {
  if (!shares(Sharding::optimizer)) return {0, m.parameter->slice.shape[0]};
  return divides_copies() ? m.own : m.parts[static_cast<size_t>(sharers_->rank())];
}

int64_t Bucket::first_of(int64_t rank) const { return sum(std::span(part_elements_).first(static_cast<size_t>(rank))); }

// Where they are shared out this rank keeps its stretch and drops the rest.
void Bucket::place_values(const c10::TensorOptions& options) {
  const at::NoGradGuard off;
  const auto rank = static_cast<size_t>(sharers_->rank());
  if (shares_values()) {
    values_ = std::make_unique<Buffer>(elements_, options);
    value_share_ = at::zeros({part_elements_[rank]}, options);
  }
  int64_t at = 0, shared = 0;
  for (const Member& m : members_) {
    Parameter& p = *m.parameter;
    const at::Tensor before = p.value.detach();
    const bool trained = p.value.requires_grad();
    if (!shares_values()) {
      if (before.is_meta()) p.set_value(at::zeros(p.slice.shape, options).set_requires_grad(trained));
      continue;
    }
    const Rows rows = m.parts[rank];
    const int64_t elements = rows.count() * row_elements(p);
    p.kept_value = {rows, value_share_.narrow(0, shared, elements).view(rows_shape(p, rows))};
    if (!before.is_meta()) p.kept_value.tensor.copy_(before.narrow(0, rows.begin, rows.count()));
    p.value = values_->view(at, p.slice.shape).set_requires_grad(trained);
    at += before.numel();
    shared += elements;
  }
}

void Bucket::place_gradients(const c10::TensorOptions& options) {
  const auto rank = static_cast<size_t>(sharers_->rank());
  gradients_ = std::make_unique<Buffer>(elements_, options);
  if (!shares_gradients()) gradients_->take(at::zeros({elements_}, options));
  gradient_share_ = shares_gradients() ? at::zeros({part_elements_[rank]}, options)
                                       : gradients_->flat().narrow(0, first_of(sharers_->rank()), part_elements_[rank]);
  int64_t at = 0, shared = 0;
  for (const Member& m : members_) {
    Parameter& p = *m.parameter;
    p.main_grad = gradients_->view(at, p.slice.shape);
    at += p.main_grad.numel();
    const Rows rows = m.parts[rank];
    const int64_t elements = rows.count() * row_elements(p);
    p.kept_gradient = {rows, gradient_share_.narrow(0, shared, elements).view(rows_shape(p, rows))};
    if (settings_.sharding == Sharding::nothing) p.kept_gradient = {{0, p.slice.shape[0]}, p.main_grad};
    shared += elements;
  }
}

void Bucket::start_values() {
  if (!shares_values() || values_->is_present() || values_coming_) return;
  const at::NoGradGuard off;
  values_coming_ = sharers_->start_all_gather_rows(value_share_, part_elements_);
}

void Bucket::finish_values() {
  if (!values_coming_) return;
  const at::NoGradGuard off;
  at::Tensor all = values_coming_->wait();
  values_coming_.reset();
  if (shares_values()) values_->take(std::move(all));
  else spread_updated_values(all);
}

void Bucket::release_values() {
  values_coming_.reset();
  if (shares_values()) values_->release();
}

void Bucket::start_updated_values() {
  const at::NoGradGuard off;
  if (shares_values()) {
    release_values();
    if (!divides_copies()) return;
    const auto rank = static_cast<size_t>(copies_->rank());
    const at::Tensor own = value_share_.narrow(0, sum(std::span(own_elements_).first(rank)), own_elements_[rank]);
    value_share_.copy_(copies_->all_gather_rows(own.clone(), own_elements_));
    return;
  }
  if (!shares(Sharding::optimizer)) return;
  const auto rank = static_cast<size_t>(sharers_->rank());
  std::vector<at::Tensor> mine;
  for (const Member& m : members_) mine.push_back(m.parameter->value.detach().narrow(0, m.parts[rank].begin, m.parts[rank].count()).reshape({-1}));
  values_coming_ = sharers_->start_all_gather_rows(at::cat(mine), part_elements_);
}

void Bucket::spread_updated_values(const at::Tensor& all) {
  int64_t at = 0;
  for (size_t r = 0; r < part_elements_.size(); ++r)
    for (const Member& m : members_) {
      const at::Tensor to = m.parameter->value.detach().narrow(0, m.parts[r].begin, m.parts[r].count());
      if (static_cast<int64_t>(r) != sharers_->rank()) to.copy_(all.narrow(0, at, to.numel()).view(to.sizes()));
      at += to.numel();
    }
}

void Bucket::zero_gradients() {
  accumulated_ = false;
  if (shares_gradients()) gradient_share_.zero_();
  else gradients_->flat().zero_();
}

void Bucket::open_gradients() {
  if (gradients_->is_present() && !gradients_going_) return;
  finish_reduction();
  gradients_->take(at::zeros({elements_}, gradients_->flat().options()));
}

void Bucket::start_reduction() {
  if (sharers_->size() == 1 || elements_ == 0 || gradients_going_ || !gradients_->is_present()) return;
  if (!shares_gradients() && accumulated_) return;  // a step has one reduction
  const at::NoGradGuard off;
  const at::Tensor& line = gradients_->flat();
  const at::ScalarType type = members_[0].parameter->value.scalar_type();
  if (settings_.reduction == Reduction::as_accumulated || type == line.scalar_type()) {
    gradients_going_ = sharers_->start_reduce_scatter_sum_rows(line, part_elements_);
    return;
  }
  const std::vector<int64_t> received(static_cast<size_t>(sharers_->size()), part_elements_[static_cast<size_t>(sharers_->rank())]);
  gradients_going_ = sharers_->start_all_to_all(line.to(type), part_elements_, received);
}

void Bucket::finish_reduction() {
  if (!gradients_going_) return;
  const at::NoGradGuard off;
  at::Tensor sums = gradients_going_->wait();
  gradients_going_.reset();
  if (sums.numel() != gradient_share_.numel()) {  // parts in the parameters' type
    const at::Tensor parts = sums.view({sharers_->size(), gradient_share_.numel()}).to(gradient_share_.scalar_type());
    sums = parts[0].clone();
    for (int64_t r = 1; r < sharers_->size(); ++r) sums.add_(parts[r]);
  }
  if (shares_gradients()) gradients_->release();
  if (settings_.sharding == Sharding::nothing) gradients_->flat().copy_(sharers_->all_gather_rows(sums, part_elements_));
  else if (accumulated_) gradient_share_.add_(sums);
  else gradient_share_.copy_(sums);
  accumulated_ = true;
}

void Bucket::reduce_over_copies() {
  if (copies_->size() == 1) return;
  const at::NoGradGuard off;
  if (!divides_copies()) {
    copies_->all_reduce(gradient_share_, ReduceOp::sum);
    return;
  }
  const auto rank = static_cast<size_t>(copies_->rank());
  gradient_share_.narrow(0, sum(std::span(own_elements_).first(rank)), own_elements_[rank])
      .copy_(copies_->reduce_scatter_sum_rows(gradient_share_, own_elements_));
}

}  // namespace ponte
