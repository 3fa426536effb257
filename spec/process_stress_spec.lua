-- SPDX-License-Identifier: MIT
-- Many children: one after another, at once, from several threads, cancelled at random moments.
-- CONCUR_CHILDREN says how many (150; `make stress-processes`: 5000).

local concur = require "concur"
local expect = require "spec.support.expect"
local support = require "spec.support"

local process = concur.process

local CHILDREN = math.tointeger(tonumber(os.getenv "CONCUR_CHILDREN")) or 150

after_each(function()
  collectgarbage()
  assert.same({}, support.children())
end)

-- Descriptors must not grow while children come and go; the collector may be some behind.
local function keeps_descriptors(body)
  local before
  return body(function()
    collectgarbage()
    local now = support.fds()
    before = before or now
    assert.is_true(now <= before, ("%d descriptors, %d before"):format(now, before))
  end)
end

describe("many children", function()
  it("one after another leave nothing", function()
    concur.run(function()
      keeps_descriptors(function(check)
        for i = 1, CHILDREN do
          local result = process.run { "sh", "-c", "echo $1; exit $2", "sh", i, i % 256 }
          assert(result.stdout == i .. "\n" and result.code == i % 256)
          if i % 100 == 1 then
            check()
            assert.same({}, support.children())
          end
        end
        check()
      end)
    end)
  end)

  it("200 at once leave nothing, and each tells how it ended", function()
    concur.run(function()
      local before = support.fds()
      do
        local children = {}
        local _ <close> = expect.guard(function()
          for _, child in ipairs(children) do
            child:close()
          end
        end)
        for i = 1, 200 do
          children[i] = assert(process.spawn { "sh", "-c", "read x; exit $x", stdout = "null",
            stderr = "null" })
        end
        assert.equal(200, #support.children())
        for i = 200, 1, -1 do
          children[i].stdin:write(i, "\n")
        end
        for i = 1, 200 do
          assert.equal(i, (children[i]:wait()))
        end
        assert.same({}, support.children())
      end
      collectgarbage()
      assert.is_true(support.fds() <= before + 2, support.fds() .. " descriptors")
    end)
  end)

  it("from tasks and from workers, side by side", function()
    local pool <close> = concur.ThreadPoolExecutor(3)
    concur.run(function()
      local function run_some(from, count)
        local process = require("concur").process -- luacheck: ignore (runs in workers)
        for i = from, from + count - 1 do
          local result = process.run { "sh", "-c", "cat; exit $1", "sh", i % 256, input = "" .. i }
          assert(result.stdout == tostring(i) and result.code == i % 256)
        end
        return count
      end
      local each = CHILDREN // 6
      local jobs = {}
      for i = 1, 3 do
        jobs[i] = pool:submit(run_some, i * 1000, each)
        jobs[i + 3] = concur.spawn(run_some, i * 1000 + 500, each)
      end
      for _, result in ipairs(concur.settle(jobs)) do
        assert.equal(each, result.ok and result[1] or result.error)
      end
    end)
  end)

  it("cancelled at random moments leave nothing", function()
    support.seed()
    concur.run(function()
      keeps_descriptors(function(check)
        for round = 1, math.max(CHILDREN // 50, 4) do
          local tasks = {}
          for i = 1, 10 do
            tasks[i] = concur.spawn(concur.move_on_after, math.random() * 0.05, process.run,
              { "sleep 0.0" .. math.random(0, 4) .. " & sleep 0.0" .. math.random(0, 4)
                .. "; cat; wait", shell = true, input = ("x"):rep(math.random(0, 200000)) })
          end
          for _, result in ipairs(concur.settle(tasks)) do
            if not result.ok then
              error(result.error)
            elseif result[1] then
              assert.equal(0, result[2].code)
            end
          end
          assert.same({}, support.children(), "round " .. round)
          check()
        end
      end)
    end)
  end)

  it("killed from outside at random moments: each tells by what", function()
    support.seed()
    concur.run(function()
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = function()
          local child <close> = assert(process.spawn { "sleep", "60" })
          concur.sleep(math.random() * 0.02)
          local signal = ({ "SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1" })[math.random(4)]
          os.execute(("kill -%s %d"):format(signal:sub(4), child:pid()))
          local code, by = child:wait()
          assert(code == nil and by == signal)
        end
      end
      concur.gather(tasks)
    end)
  end)
end)
