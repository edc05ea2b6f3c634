// Two-way accounting: everything a model needs is there, nothing else is. All gaps are collected and reported in one error.
#pragma once
#include <set>
#include <string>
#include <vector>

#include "families/rule.h"

namespace ponte {

class Accounting {
 public:
  explicit Accounting(std::string subject) : subject_(std::move(subject)) {}
  void missing(const std::string& name) { missing_.push_back(name); }
  void unexpected(const std::string& name) { unexpected_.push_back(name); }
  void mismatch(const std::string& name, const Shape& found, const Shape& wanted);  // said once of a tensor, however many parts of it are wanted
  void problem(std::string text) { problems_.push_back(std::move(text)); }
  // UserError listing the names when there is any gap.
  void settle() const;

 private:
  std::string subject_;
  std::vector<std::string> missing_, unexpected_, problems_;
  std::set<std::string> mismatched_;
};

}  // namespace ponte
