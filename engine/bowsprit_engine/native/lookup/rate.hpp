// Matched and judged tokens of one kind of case, the latest weighing most.
#pragma once

namespace bowsprit {

struct Rate {
  double matched = 0.0, judged = 0.0;

  // One more; what was counted before keeps so much of its weight.
  void count(double also_matched, double keep) {
    matched = matched * keep + also_matched;
    judged = judged * keep + 1.0;
  }
  // The rate, with `lean` cases' worth of `belief` in it.
  double leaning(double belief, double lean) const { return (matched + lean * belief) / (judged + lean); }
};

}  // namespace bowsprit
