-- SPDX-License-Identifier: MIT
-- Random programs keep the invariants I1 to I10 (spec/support/random_program.lua says which and
-- how). CONCUR_PROGRAMS is how many (300; the long target runs 10,000), CONCUR_SEED the first seed.

local random_program = require "spec.support.random_program"
local support = require "spec.support"

local COUNT = math.tointeger(tonumber(os.getenv "CONCUR_PROGRAMS")) or 300

-- Runs the program; returns nothing, or what went wrong.
local function failure(program)
  local ok, e = pcall(random_program.run, program)
  if not ok then
    return tostring(e)
  end
end

local function report(program, message)
  local small = random_program.shrink(program, function(smaller)
    return failure(smaller) ~= nil
  end)
  error(("seed %d: %s\nsmaller: %s\n%s"):format(program.seed, message, failure(small) or "",
    random_program.show(small)), 0)
end

describe("random programs", function()
  it("keep the invariants, and the same seed gives the same trace", function()
    local first = support.seed()
    for seed = first, first + COUNT - 1 do
      local program = random_program.generate(seed)
      local ok, trace = pcall(random_program.run, program)
      if not ok then
        report(program, tostring(trace))
      end
      local again = random_program.run(random_program.generate(seed))
      if again ~= trace and not program.meddles then
        error(("seed %d: two runs differ\n%s\n-- and\n%s"):format(seed, trace, again), 0)
      end
    end
  end)

  it("of a seed are always the same", function()
    for seed = 1, 20 do
      assert.equal(random_program.show(random_program.generate(seed)),
        random_program.show(random_program.generate(seed)))
    end
    assert.not_equal(random_program.show(random_program.generate(1)),
      random_program.show(random_program.generate(2)))
  end)

  it("that break an invariant are found and made smaller", function()
    local program = random_program.generate(1)
    table.insert(program.body, 1, { op = "call", id = 0, n = 1, seconds = 0, fn = function()
      error("an error that no program may raise", 0)
    end })
    local small = random_program.shrink(program, function(smaller)
      return (failure(smaller) or ""):find("no program may raise", 1, true) ~= nil
    end)
    assert.equal(1, #small.body)
    assert.equal("call", small.body[1].op)
  end)
end)
