#include "base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include "base/errors.h"

namespace ponte {

struct ContentHash::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

namespace {
std::string hex_of(XXH128_hash_t h) { return format("{:016x}{:016x}", static_cast<uint64_t>(h.high64), static_cast<uint64_t>(h.low64)); }
}  // namespace

ContentHash::ContentHash() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
ContentHash::~ContentHash() = default;
ContentHash::ContentHash(ContentHash&&) noexcept = default;
void ContentHash::update(std::span<const std::byte> bytes) { XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size()); }
std::string ContentHash::hex() const { return hex_of(XXH3_128bits_digest(state_->xxh)); }

std::string content_hash(std::span<const std::byte> bytes) { return hex_of(XXH3_128bits(bytes.data(), bytes.size())); }
uint64_t xxh3_64(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) { PONTE_ASSERT(EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr) == 1); }
Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }
void Sha256::update(std::span<const std::byte> bytes) { EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), bytes.data(), bytes.size()); }

namespace {
std::string finish(EVP_MD_CTX* context) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(context, digest, &size);
  std::string out;
  for (unsigned i = 0; i < size; ++i) out += format("{:02x}", static_cast<unsigned>(digest[i]));
  return out;
}
}  // namespace

std::string Sha256::hex() { return finish(static_cast<EVP_MD_CTX*>(context_)); }

std::string sha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string git_blob_id(std::span<const std::byte> bytes) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  PONTE_ASSERT(EVP_DigestInit_ex(context.get(), EVP_sha1(), nullptr) == 1);
  const std::string header = format("blob {}", bytes.size());
  EVP_DigestUpdate(context.get(), header.c_str(), header.size() + 1);  // with the final zero byte
  EVP_DigestUpdate(context.get(), bytes.data(), bytes.size());
  return finish(context.get());
}

}  // namespace ponte
