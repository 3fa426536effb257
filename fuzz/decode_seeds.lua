-- SPDX-License-Identifier: MIT
-- Writes the first inputs of decode_fuzz: one message of each kind. From the root of the tree:
--     lua fuzz/decode_seeds.lua fuzz/corpus/decode
-- Needed again when the format changes; the classes are those that decode_fuzz.c prepares.
local core = require "concur.core"

local directory = assert(arg[1], "usage: lua fuzz/decode_seeds.lua DIRECTORY")

local function seed(name, ...)
  local file <close> = assert(io.open(directory .. "/" .. name, "wb"))
  assert(file:write(core.encode_flat(...)))
end

local own = { __transfer = true, make = function(...) return { ... } end }
package.loaded.own = own
local pair, plain = {}, {}
core.transferable("pair", pair, {
  encode = function(p) return p[1], p[2] end,
  decode = function(a, b) return { a, b } end,
})
core.transferable("plain", plain)

seed("scalars", 1, 2.5, "x", nil, true, false, -128, 128, 1 << 62, 0 / 0, -0.0, math.mininteger)
seed("strings", "", ("x"):rep(63), ("y"):rep(300), "a\0b")
local long = ("z"):rep(70)
seed("shared_string", { long, long })

local cycle = { 1, 2, 3, a = "b", { x = 1 }, [2.5] = 1, [true] = 2 }
cycle.self, cycle[cycle] = cycle, cycle
seed("cycle", cycle)

local deep = {}
local bottom = deep
for _ = 1, 130 do
  bottom.n = {}
  bottom = bottom.n
end
seed("deep", deep)

local function factorial(n) return n < 2 and 1 or n * factorial(n - 1) end
seed("recursive", factorial)
local count = 0
local function increment() count = count + 1 end
local function get() return count end
seed("shared_upvalue", increment, get)
seed("pure", function() return 1 end, function() return 1 end)

local nested = function() return 0 end
for _ = 1, 105 do
  local inner = nested
  nested = function() return inner end
end
seed("deep_function", nested)

seed("named", print, _G, own, own.make)
seed("instance", setmetatable({ 1, x = 2 }, own), setmetatable({ 1 }, plain))
local p = setmetatable({ 1, { 2 } }, pair)
seed("object", p, p, setmetatable({ p, deep }, pair))
seed("rebuilt", setmetatable({}, { __transfer = function() return own.make, 1, { 2 } end }))
seed("error", setmetatable({ kind = "Closed", message = "m" }, core.error_metatable))
