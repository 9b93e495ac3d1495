#include "places.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>

namespace bowsprit {

Places::Places(const std::vector<Answer*>& answers, size_t num_runs)
    : answers_(answers), mask_(std::bit_ceil(num_runs + num_runs / 4 + 16) - 1), entries_(allocated(mask_ + 1)) {}

Places::~Places() {
  for (size_t slot = 0; slot <= mask_; slot++)
    if (entries_[slot].num && entries_[slot].capacity > 1) delete[] entries_[slot].many;
  std::free(entries_);
}

void Places::add(const Run& run, Place place) {
  if ((num_entries_ + 1) * 8 > (mask_ + 1) * 7) grow();
  Entry& entry = entries_[slot_of(run)];
  if (entry.num == 0) {
    entry = {run.hash, 1, 1, run.length, {place}};
    num_entries_++;
    return;
  }
  if (entry.num == kPlacesKept) {
    std::memmove(entry.many, entry.many + 1, (kPlacesKept - 1) * sizeof(Place));
    entry.num--;
  } else if (entry.num == entry.capacity) {
    resize(entry, 2 * entry.capacity);
  }
  entry.places()[entry.num++] = place;
}

void Places::remove(const Run& run, Place place) {
  const size_t slot = slot_of(run);
  Entry& entry = entries_[slot];
  Place* const places = entry.places();
  Place* const found = std::find(places, places + entry.num, place);
  if (found == places + entry.num) return;  // there were too many of them
  std::copy(found + 1, places + entry.num, found);
  entry.num--;
  if (entry.num == 0) {
    if (entry.capacity > 1) delete[] entry.many;
    close_gap(slot);
  } else if (entry.num * 4 <= entry.capacity) {
    resize(entry, entry.capacity / 2);
  }
}

std::span<const Place> Places::find(const Run& run) const {
  const Entry& entry = entries_[slot_of(run)];
  return {entry.places(), entry.num};
}

Places::Entry* Places::allocated(size_t capacity) {
  void* const memory = std::calloc(capacity, sizeof(Entry));  // of fresh pages, each taken when it is first written
  if (memory == nullptr) throw std::bad_alloc();
  return static_cast<Entry*>(memory);
}

size_t Places::slot_of(const Run& run) const {
  size_t slot = run.hash & mask_;
  while (entries_[slot].num && !is_of(entries_[slot], run)) slot = (slot + 1) & mask_;
  return slot;
}

bool Places::is_of(const Entry& entry, const Run& run) const {
  if (entry.hash != run.hash || entry.length != run.length) return false;
  const Place place = entry.places()[0];
  const Answer& answer = *answers_[place.answer];
  return answer.owner == run.owner &&
         std::equal(run.end - run.length, run.end, answer.tokens.data() + place.at - run.length);
}

void Places::resize(Entry& entry, int capacity) {
  Place* const places = new Place[capacity];
  std::copy(entry.places(), entry.places() + entry.num, places);
  if (entry.capacity > 1) delete[] entry.many;
  entry.many = places;
  entry.capacity = static_cast<uint8_t>(capacity);
}

// Entries that were put off by the one that is gone move up: no marks of what was removed fill the table.
void Places::close_gap(size_t slot) {
  num_entries_--;
  for (size_t next = (slot + 1) & mask_; entries_[next].num; next = (next + 1) & mask_) {
    const size_t distance = (next - entries_[next].hash) & mask_;  // from where it belongs
    if (distance < ((next - slot) & mask_)) continue;
    entries_[slot] = entries_[next];
    slot = next;
  }
  entries_[slot] = Entry{};
}

void Places::grow() {
  Entry* const old = entries_;
  const size_t old_mask = mask_;
  entries_ = allocated(2 * (old_mask + 1));
  mask_ = 2 * old_mask + 1;
  for (size_t from = 0; from <= old_mask; from++) {
    if (old[from].num == 0) continue;
    size_t slot = old[from].hash & mask_;
    while (entries_[slot].num) slot = (slot + 1) & mask_;
    entries_[slot] = old[from];
  }
  std::free(old);
}

}  // namespace bowsprit
