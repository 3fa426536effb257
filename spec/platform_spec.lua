-- SPDX-License-Identifier: MIT
-- csrc/platform.c: how many processors a program may use, in whatever container it runs.

local build = require "spec.support.c_program"
local support = require "spec.support"

describe("the number of processors", function()
  local program, root

  before_each(function()
    program = build("platform_test", { "platform" },
      { "fopen", "sched_getaffinity", "sysconf" })
    root = support.tmpdir()
  end)

  -- `files`: what the system says of control groups; cpus: how many this process may run on.
  local function count(files, cpus, online)
    support.execute { "rm", "-rf", root .. "/proc", root .. "/sys" }
    for path, content in pairs(files) do
      support.execute { "mkdir", "-p", root .. path:match "^.*/" }
      support.write_file(root .. path, content)
    end
    local result = support.execute { program, root, tostring(cpus), tostring(online or 64) }
    assert.equal(0, result.code, support.describe(result))
    return math.tointeger(result.stdout)
  end

  it("is what the process may run on", function()
    assert.equal(6, count({}, 6))
    assert.equal(64, count({}, 0)) -- the system does not say
    assert.equal(1, count({}, 0, -1))
  end)

  it("is limited by the control group, and by every group around it", function()
    local function limited(group, limits)
      local files = { ["/proc/self/cgroup"] = "1:name=systemd:/other\n0::" .. group .. "\n" }
      for path, limit in pairs(limits) do
        files["/sys/fs/cgroup" .. path .. "cpu.max"] = limit .. "\n"
      end
      return count(files, 8)
    end
    assert.equal(2, limited("/", { ["/"] = "200000 100000" }))
    assert.equal(3, limited("/", { ["/"] = "250000 100000" })) -- two and a half
    assert.equal(1, limited("/", { ["/"] = "1000 100000" }))
    assert.equal(8, limited("/", { ["/"] = "max 100000" }))
    assert.equal(8, limited("/", { ["/"] = "1600000 100000" }))
    assert.equal(8, limited("/", { ["/"] = "200000 0" }))
    assert.equal(4, limited("/a/b", { ["/a/b/"] = "max 100000", ["/a/"] = "400000 100000" }))
    assert.equal(2, limited("/a/b", { ["/a/b/"] = "200000 100000", ["/a/"] = "400000 100000" }))
  end)

  it("is limited by control groups of the first version", function()
    local cpu = "/sys/fs/cgroup/cpu/cpu.cfs_"
    local function limited(quota, period)
      return count({ [cpu .. "quota_us"] = quota, [cpu .. "period_us"] = period }, 8)
    end
    assert.equal(3, limited("300000\n", "100000\n"))
    assert.equal(8, limited("-1\n", "100000\n"))
    assert.equal(8, limited("300000\n"))
  end)
end)
