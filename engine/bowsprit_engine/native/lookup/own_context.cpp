#include "own_context.hpp"

#include <algorithm>
#include <bit>

namespace bowsprit {
namespace {

constexpr int kCopyLength = 4;      // so many copied tokens make a copy that is worth resuming
constexpr int kResumeWithin = 16;   // tokens of the source after the break, and tokens emitted since

}  // namespace

int match_before(const Token* source, size_t end, std::span<const Token> text, size_t most) {
  most = std::min({most, end, text.size()});
  size_t length = 0;
  while (length < most && source[end - 1 - length] == text[text.size() - 1 - length]) length++;
  return static_cast<int>(length);
}

void NgramIndex::extend(std::span<const Token> text) {
  const auto end = static_cast<uint32_t>(text.size());
  if (end == num_indexed_) return;
  reserve(text, num_entries_ + kLongest * (end - num_indexed_));
  for (uint32_t continuation = std::max(num_indexed_, 1u); continuation < end; continuation++) {
    uint64_t hash = secret_;
    for (int length = 1; length <= kLongest && static_cast<uint32_t>(length) <= continuation; length++) {
      hash = hashed(hash, text[continuation - length]);
      put(text.data(), continuation, length, hash);
    }
  }
  num_indexed_ = end;
}

std::optional<uint32_t> NgramIndex::find(std::span<const Token> text) const {
  if (slots_.empty()) return std::nullopt;
  const Token* const end = text.data() + text.size();
  uint64_t hashes[kLongest + 1] = {secret_};
  const int longest = static_cast<int>(std::min<size_t>(kLongest, text.size()));
  for (int length = 1; length <= longest; length++) hashes[length] = hashed(hashes[length - 1], end[-length]);
  for (int length = longest; length >= kShortestMatch; length--) {
    const uint32_t slot = slots_[slot_of(text.data(), end, length, hashes[length])];
    if (slot) return slot >> kLengthBits;
  }
  return std::nullopt;
}

// Slots for so many entries, three quarters of them in use at most.
void NgramIndex::reserve(std::span<const Token> text, size_t num_entries) {
  if (num_entries * 4 <= slots_.size() * 3) return;
  const std::vector<uint32_t> old = std::move(slots_);
  slots_ = std::vector<uint32_t>(std::bit_ceil(num_entries * 4 / 3 + 16), 0);
  num_entries_ = 0;
  for (const uint32_t slot : old) {
    if (slot == 0) continue;
    const uint32_t continuation = slot >> kLengthBits;
    const int length = static_cast<int>(slot & ((1 << kLengthBits) - 1));
    uint64_t hash = secret_;
    for (int before = 1; before <= length; before++) hash = hashed(hash, text[continuation - before]);
    put(text.data(), continuation, length, hash);
  }
}

void NgramIndex::put(const Token* text, uint32_t continuation, int length, uint64_t hash) {
  uint32_t& slot = slots_[slot_of(text, text + continuation, length, hash)];
  num_entries_ += slot == 0;
  slot = continuation << kLengthBits | static_cast<uint32_t>(length);
}

// Of the `length` tokens before `end`, or the empty one where they would be.
size_t NgramIndex::slot_of(const Token* text, const Token* end, int length, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t index = (hash >> 32) & mask;
  for (; slots_[index]; index = (index + 1) & mask) {
    const uint32_t slot = slots_[index];
    if (static_cast<int>(slot & ((1 << kLengthBits) - 1)) != length) continue;
    if (std::equal(end - length, end, text + (slot >> kLengthBits) - length)) break;
  }
  return index;
}

std::optional<Start> OwnContext::start(std::span<const Token> text, size_t num_emitted) {
  const std::span<const Token> emitted = text.first(num_emitted);
  index.extend(emitted);
  if (copy_) copy_->advance(emitted, num_seen_);
  num_seen_ = num_emitted;
  std::optional<Copy> copy = copy_;
  if (copy) copy->advance(text, num_seen_);
  const std::optional<Start> start = best_start(copy, text);
  if (start && text.size() == num_emitted) {
    if (!copy || !copy->broken_at || start->match >= kCopyLength)
      copy_ = Copy{start->source, start->match};
    else
      copy_ = Copy{start->source, start->match, copy->broken_at, copy->since};
  }
  return start;
}

void OwnContext::Copy::advance(std::span<const Token> text, size_t begin) {
  for (size_t index = begin; index < text.size(); index++) {
    since++;
    if (source < index && text[source] == text[index]) {
      source++;
      length++;
      if (length >= kCopyLength) broken_at.reset(), since = 0;
    } else {
      if (length >= kCopyLength) broken_at = source, since = 1;
      length = 0;
    }
  }
}

// The copy under way, else the longest match, else where a broken copy most likely goes on.
std::optional<Start> OwnContext::best_start(const std::optional<Copy>& copy, std::span<const Token> text) const {
  if (copy && copy->length >= kCopyLength && copy->source < text.size())
    return Start{copy->source, std::min(kLongestCounted, copy->length)};
  const std::optional<uint32_t> found = index.find(text);
  const int match = found ? match_before(text.data(), *found, text, kLongestCounted) : 0;
  if (copy && copy->broken_at && copy->since <= kResumeWithin) {
    const std::optional<Start> near = resumed(text, *copy->broken_at);
    if (near && near->match + 2 >= match) return near;
  }
  if (!found) return std::nullopt;
  return Start{*found, match};
}

// The longest match that ends near the break, the nearest of equals; without any, the token after the changed one.
std::optional<Start> OwnContext::resumed(std::span<const Token> text, uint32_t broken_at) {
  std::optional<Start> best;
  const size_t last = std::min<size_t>(broken_at + kResumeWithin, text.size() - 1);
  for (size_t end = broken_at + 1; end <= last; end++) {
    if (text[end - 1] != text.back()) continue;
    const int length = match_before(text.data(), end, text, kLongestCounted);
    if (!best || length > best->match) best = Start{static_cast<uint32_t>(end), length};
  }
  if (!best && broken_at + 1 < text.size()) return Start{broken_at + 1, 0};
  return best;
}

}  // namespace bowsprit
