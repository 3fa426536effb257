-- SPDX-License-Identifier: MIT
-- SHA-256 (FIPS 180-4) in plain Lua: CPU work for the examples, in a form that can be read.
--
--     local sha256 = require "sha256"
--     print(sha256.hex("abc"))
--
--     local hash = sha256.new()
--     hash:update("a"):update("bc")
--     print(hash:hex())
--
-- Test: examples/sha256.lua
--
-- Words are 32 bits in Lua's 64-bit integers. What grows above them in a sum does no harm there
-- and is cut off where it would: when a word is stored.

local sha256 = {}

local BLOCK <const> = 64 -- bytes
local MASK <const> = 0xFFFFFFFF

-- The first 32 bits of the fractional parts of a root of the first `count` primes.
local function fractions_of_primes(count, exponent)
  local words, candidate = {}, 2
  while #words < count do
    local prime = true
    for divisor = 2, math.floor(candidate ^ 0.5) do
      if candidate % divisor == 0 then
        prime = false
        break
      end
    end
    if prime then
      words[#words + 1] = math.floor(candidate ^ exponent % 1 * 2 ^ 32)
    end
    candidate = candidate + 1
  end
  return words
end

local INITIAL = fractions_of_primes(8, 1 / 2)
local K = fractions_of_primes(64, 1 / 3)

local WORDS = ">" .. ("I4"):rep(16) -- a block as 16 big-endian words

-- Mixes one block of `data`, which starts at `position`, into the state `s`. `w` is scratch
-- space, `k` the round constants.
--
-- `x | x << 32` is the word twice, one after the other: a rotation of the word is then one shift.
local function compress(s, w, k, data, position)
  w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], w[12], w[13], w[14], w[15],
    w[16] = WORDS:unpack(data, position)
  for i = 17, 64 do
    local x, y = w[i - 15], w[i - 2]
    local xx, yy = x | x << 32, y | y << 32
    w[i] = w[i - 16] + w[i - 7] + (xx >> 7 ~ xx >> 18 ~ x >> 3) + (yy >> 17 ~ yy >> 19 ~ y >> 10)
      & MASK
  end

  local a, b, c, d, e, f, g, h = s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8]
  for i = 1, 64 do
    local ee, aa = e | e << 32, a | a << 32
    local t = h + k[i] + w[i] + (g ~ e & (f ~ g)) + (ee >> 6 ~ ee >> 11 ~ ee >> 25)
    h, g, f, e = g, f, e, d + t & MASK
    d, c, b, a = c, b, a, t + (a & b | c & (a | b)) + (aa >> 2 ~ aa >> 13 ~ aa >> 22) & MASK
  end
  s[1], s[2], s[3], s[4] = s[1] + a & MASK, s[2] + b & MASK, s[3] + c & MASK, s[4] + d & MASK
  s[5], s[6], s[7], s[8] = s[5] + e & MASK, s[6] + f & MASK, s[7] + g & MASK, s[8] + h & MASK
end

---@class Sha256
---@field package state integer[]
---@field package words integer[] scratch space of `compress`
---@field package rest string bytes that do not fill a block yet
---@field package length integer bytes so far
local Sha256 = {}
Sha256.__index = Sha256
Sha256.__name = "Sha256"

---Starts a digest.
---@return Sha256
function sha256.new()
  return setmetatable({
    state = table.move(INITIAL, 1, 8, 1, {}),
    words = {},
    rest = "",
    length = 0,
  }, Sha256)
end

---Adds bytes.
---@param data string
---@return Sha256 self
function Sha256:update(data)
  self.length = self.length + #data
  if self.rest ~= "" then
    data = self.rest .. data
  end
  local state, words = self.state, self.words
  local whole = #data - #data % BLOCK
  for position = 1, whole, BLOCK do
    compress(state, words, K, data, position)
  end
  self.rest = data:sub(whole + 1)
  return self
end

---The digest of all bytes so far, as 64 hexadecimal digits. Ends the digest.
---@return string
function Sha256:hex()
  local bits = self.length * 8
  local zeros = -(self.length + 9) % BLOCK
  self:update("\x80" .. ("\0"):rep(zeros) .. (">I8"):pack(bits))
  return (("%08x"):rep(8):format(table.unpack(self.state)))
end

---The digest of a string.
---@param data string
---@return string digits
function sha256.hex(data)
  return sha256.new():update(data):hex()
end

if ... == "sha256" then
  return sha256 -- this file was required
end

-- Run as a program, it does what sha256sum does, block by block.
for _, path in ipairs(arg) do
  local file <close> = assert(io.open(path, "rb"))
  local hash = sha256.new()
  for block in file:lines(64 * 1024) do
    hash:update(block)
  end
  print(hash:hex() .. "  " .. path)
end
